// SPDX-License-Identifier: Apache-2.0
#include "client/progress.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <vector>

#include "client/format.h"
#include "client/utf8.h"

namespace weir::client {
namespace {

constexpr absl::Duration kRateWindow = absl::Seconds(10);
constexpr absl::Duration kSampleEvery = absl::Milliseconds(100);
constexpr int kBarMin = 8;
constexpr int kBarMax = 40;

std::string Bar(double fraction, int columns, bool unicode) {
  const double filled = std::clamp(fraction, 0.0, 1.0) * columns;
  const int whole = static_cast<int>(filled);
  std::string bar;
  for (int i = 0; i < whole; ++i) bar += unicode ? "█" : "#";
  int used = whole;
  if (unicode && whole < columns) {
    constexpr std::array<const char*, 8> kEighths = {
        "", "▏", "▎", "▍", "▌", "▋", "▊", "▉"};
    const int eighths = static_cast<int>((filled - whole) * 8);
    bar += kEighths[eighths];
    used += eighths > 0;
  }
  for (; used < columns; ++used) bar += unicode ? "░" : ".";
  return unicode ? bar : "[" + bar + "]";
}

// Parts of the line with their rank: the highest is left out first.
struct Part {
  int rank;
  std::string text;
};

int LineColumns(const std::vector<Part>& parts) {
  int columns = 0;
  for (const Part& part : parts) {
    columns += Columns(part.text) + (columns > 0 ? 2 : 0);
  }
  return columns;
}

std::string Percent(double fraction) {
  // 100 % stands for the end and nothing less.
  const double percent = std::floor(std::clamp(fraction, 0.0, 1.0) * 100);
  return FormatFixed(percent, 0) + "%";
}

std::vector<Part> Parts(const Progress& progress) {
  std::vector<Part> parts;
  if (progress.fraction.has_value()) {
    std::string percent = Percent(*progress.fraction);
    percent.insert(0, 4 - percent.size(), ' ');
    parts.push_back({0, percent});
  }
  parts.push_back({1, FormatCount(progress.position)});
  if (progress.tokens_per_second.has_value()) {
    parts.push_back({3, FormatRate(*progress.tokens_per_second) + " tok/s"});
  }
  if (progress.bits.has_value()) {
    parts.push_back(
        {2, FormatFixed(*progress.bits, 3) + " bits/" + progress.bits_unit});
  }
  if (progress.left.has_value()) {
    parts.push_back({4, "ETA " + FormatClock(*progress.left)});
  } else {
    parts.push_back({5, FormatClock(progress.elapsed)});
  }
  return parts;
}

}  // namespace

void RateMeter::Add(absl::Time now, double total) {
  if (now - samples_.back().first < kSampleEvery && samples_.size() > 1) {
    return;
  }
  samples_.emplace_back(now, total);
  while (samples_.size() > 2 && now - samples_[1].first >= kRateWindow) {
    samples_.pop_front();
  }
}

std::optional<double> RateMeter::rate() const {
  const double seconds =
      absl::ToDoubleSeconds(samples_.back().first - samples_.front().first);
  if (seconds <= 0) return std::nullopt;
  return (samples_.back().second - samples_.front().second) / seconds;
}

std::optional<absl::Duration> EstimateLeft(double done,
                                           std::optional<double> total,
                                           std::optional<double> rate) {
  if (!total.has_value() || !rate.has_value() || *rate <= 0) {
    return std::nullopt;
  }
  return absl::Seconds(std::max(0.0, *total - done) / *rate);
}

std::string RenderProgress(const Progress& progress, int width, bool unicode) {
  std::vector<Part> parts = Parts(progress);
  while (parts.size() > 1 && LineColumns(parts) > width) {
    parts.erase(std::max_element(
        parts.begin(), parts.end(), [](const Part& a, const Part& b) {
          return a.rank < b.rank;
        }));
  }
  std::string line;
  for (const Part& part : parts) {
    line += (line.empty() ? "" : "  ") + part.text;
  }
  const int frame = unicode ? 0 : 2;
  const int room = std::min(kBarMax, width - Columns(line) - 1 - frame);
  if (progress.fraction.has_value() && room >= kBarMin) {
    line = Bar(*progress.fraction, room, unicode) + " " + line;
  }
  return CutToColumns(line, width);
}

std::string DescribeProgress(const Progress& progress) {
  std::string line = "position " + FormatCount(progress.position);
  if (progress.fraction.has_value()) {
    line += " (" + Percent(*progress.fraction) + ")";
  }
  if (progress.tokens_per_second.has_value()) {
    line += ", " + FormatRate(*progress.tokens_per_second) + " tokens/s";
  }
  if (progress.bits.has_value()) {
    line +=
        ", " + FormatFixed(*progress.bits, 4) + " bits/" + progress.bits_unit;
  }
  if (progress.left.has_value()) {
    line += ", " + FormatClock(*progress.left) + " left";
  }
  return line;
}

}  // namespace weir::client
