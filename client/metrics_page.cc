// SPDX-License-Identifier: Apache-2.0
#include "client/metrics_page.h"

#include <algorithm>
#include <cctype>
#include <charconv>
#include <cmath>
#include <limits>
#include <optional>

namespace weir::client {
namespace {

constexpr double kNaN = std::numeric_limits<double>::quiet_NaN();
constexpr double kInfinity = std::numeric_limits<double>::infinity();

bool IsNameCharacter(char c) {
  return std::isalnum(static_cast<unsigned char>(c)) || c == '_' || c == ':';
}

void SkipBlanks(std::string_view& text) {
  while (!text.empty() && (text[0] == ' ' || text[0] == '\t')) {
    text.remove_prefix(1);
  }
}

std::string_view TakeName(std::string_view& text) {
  size_t length = 0;
  while (length < text.size() && IsNameCharacter(text[length])) ++length;
  const std::string_view name = text.substr(0, length);
  text.remove_prefix(length);
  return name;
}

// "value" with its escapes; nullopt if it is not closed.
std::optional<std::string> TakeQuoted(std::string_view& text) {
  if (text.empty() || text[0] != '"') return std::nullopt;
  std::string value;
  for (size_t i = 1; i < text.size(); ++i) {
    if (text[i] == '"') {
      text.remove_prefix(i + 1);
      return value;
    }
    if (text[i] == '\\' && i + 1 < text.size()) {
      ++i;
      value += text[i] == 'n' ? '\n' : text[i];
    } else {
      value += text[i];
    }
  }
  return std::nullopt;
}

// {name="value",...}
bool TakeLabels(std::string_view& text, Labels* labels) {
  if (text.empty() || text[0] != '{') return true;
  text.remove_prefix(1);
  while (true) {
    SkipBlanks(text);
    if (!text.empty() && text[0] == '}') {
      text.remove_prefix(1);
      return true;
    }
    const std::string name(TakeName(text));
    if (name.empty() || text.empty() || text[0] != '=') return false;
    text.remove_prefix(1);
    const std::optional<std::string> value = TakeQuoted(text);
    if (!value.has_value()) return false;
    (*labels)[name] = *value;
    SkipBlanks(text);
    if (!text.empty() && text[0] == ',') text.remove_prefix(1);
  }
}

std::optional<double> ReadNumber(std::string_view text) {
  if (text == "+Inf" || text == "Inf") return kInfinity;
  if (text == "-Inf") return -kInfinity;
  if (text == "NaN" || text == "Nan") return kNaN;
  if (text.starts_with("+")) text.remove_prefix(1);
  double number = 0;
  const auto [stop, error] =
      std::from_chars(text.data(), text.data() + text.size(), number);
  if (error != std::errc() || stop != text.data() + text.size()) {
    return std::nullopt;
  }
  return number;
}

bool Matches(const Labels& labels, const Labels& wanted) {
  return std::all_of(wanted.begin(), wanted.end(), [&](const auto& label) {
    const auto found = labels.find(label.first);
    return found != labels.end() && found->second == label.second;
  });
}

}  // namespace

absl::StatusOr<MetricsPage> MetricsPage::Parse(std::string_view text) {
  MetricsPage page;
  int number = 0;
  while (!text.empty()) {
    ++number;
    const size_t newline = std::min(text.find('\n'), text.size());
    std::string_view line = text.substr(0, newline);
    text.remove_prefix(std::min(newline + 1, text.size()));
    if (line.ends_with('\r')) line.remove_suffix(1);
    SkipBlanks(line);
    if (line.empty() || line[0] == '#') continue;
    const std::string name(TakeName(line));
    Sample sample;
    const bool labelled = !name.empty() && TakeLabels(line, &sample.labels);
    SkipBlanks(line);
    // A time may follow the value.
    const std::string_view digits = line.substr(0, line.find_first_of(" \t"));
    const std::optional<double> value = ReadNumber(digits);
    if (!labelled || !value.has_value()) {
      return absl::InvalidArgumentError("line " + std::to_string(number) +
                                        " is not a metric");
    }
    sample.value = *value;
    page.samples_[name].push_back(std::move(sample));
  }
  return page;
}

const std::vector<Sample>& MetricsPage::Samples(std::string_view name) const {
  static const std::vector<Sample> none;
  const auto found = samples_.find(name);
  return found == samples_.end() ? none : found->second;
}

double MetricsPage::Sum(std::string_view name,
                        const Labels& labels,
                        double missing) const {
  double sum = 0;
  bool found = false;
  for (const Sample& sample : Samples(name)) {
    if (!Matches(sample.labels, labels)) continue;
    sum += sample.value;
    found = true;
  }
  return found ? sum : missing;
}

std::string MetricsPage::Label(std::string_view name,
                               std::string_view label) const {
  const std::vector<Sample>& samples = Samples(name);
  if (samples.empty()) return {};
  const auto found = samples[0].labels.find(label);
  return found == samples[0].labels.end() ? std::string() : found->second;
}

Histogram MetricsPage::HistogramOf(std::string_view name,
                                   const Labels& labels) const {
  Histogram histogram;
  const std::string base(name);
  for (const Sample& sample : Samples(base + "_bucket")) {
    const auto bound = sample.labels.find("le");
    if (bound == sample.labels.end() || !Matches(sample.labels, labels)) {
      continue;
    }
    const std::optional<double> le = ReadNumber(bound->second);
    if (le.has_value()) histogram.buckets[*le] += sample.value;
  }
  histogram.sum = Sum(base + "_sum", labels);
  histogram.count = Sum(base + "_count", labels);
  return histogram;
}

Histogram Histogram::Since(const Histogram& before) const {
  if (before.count > count) return *this;
  Histogram since = *this;
  since.sum -= before.sum;
  since.count -= before.count;
  for (auto& [bound, number] : since.buckets) {
    const auto found = before.buckets.find(bound);
    if (found != before.buckets.end()) number -= found->second;
  }
  return since;
}

double Histogram::Quantile(double q) const {
  if (buckets.empty() || buckets.rbegin()->second <= 0) return kNaN;
  const double rank = q * buckets.rbegin()->second;
  double bound_before = 0;
  double count_before = 0;
  for (const auto& [bound, number] : buckets) {
    if (number < rank) {
      bound_before = bound;
      count_before = number;
      continue;
    }
    if (!std::isfinite(bound)) return bound_before;
    if (number == count_before) return bound;
    return bound_before + (bound - bound_before) * (rank - count_before) /
                              (number - count_before);
  }
  return bound_before;
}

double Histogram::Mean() const { return count > 0 ? sum / count : kNaN; }

}  // namespace weir::client
