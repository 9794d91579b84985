// SPDX-License-Identifier: Apache-2.0
#include "engine/config/strict_json.h"

#include <array>
#include <cstdint>
#include <unordered_set>
#include <utility>
#include <vector>

#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"

namespace weir::engine {
namespace {

using nlohmann::json;

constexpr size_t kQuotedBytesMax = 120;

// Walks the text without building anything and stops at the first breach, so
// that the tree is only built for a text whose size is known to be bounded.
class Guard final : public nlohmann::json_sax<json> {
 public:
  explicit Guard(const JsonLimits& limits) : limits_(limits) {}

  const std::string& error() const { return error_; }

  bool null() override { return Count(); }
  bool boolean(bool) override { return Count(); }
  bool number_integer(number_integer_t) override { return Count(); }
  bool number_unsigned(number_unsigned_t) override { return Count(); }
  bool number_float(number_float_t, const string_t&) override {
    return Count();
  }
  bool string(string_t&) override { return Count(); }
  bool binary(binary_t&) override { return Fail("binary value"); }
  bool start_object(size_t) override { return Enter(); }
  bool end_object() override { return Leave(); }
  bool start_array(size_t) override { return Enter(); }
  bool end_array() override { return Leave(); }

  bool key(string_t& name) override {
    if (!keys_.back().insert(name).second) {
      return Fail(absl::StrCat("key ", Quoted(name), " stands twice"));
    }
    return Count();
  }

  bool parse_error(size_t position,
                   const std::string&,
                   const nlohmann::detail::exception&) override {
    return Fail(absl::StrCat("not JSON at byte ", position));
  }

 private:
  bool Fail(std::string error) {
    if (error_.empty()) error_ = std::move(error);
    return false;
  }

  bool Count() {
    if (++values_ <= limits_.values) return true;
    return Fail(absl::StrCat("more than ", limits_.values, " values"));
  }

  bool Enter() {
    if (keys_.size() >= limits_.depth) {
      return Fail(absl::StrCat("deeper than ", limits_.depth, " levels"));
    }
    keys_.emplace_back();
    return Count();
  }

  bool Leave() {
    keys_.pop_back();
    return true;
  }

  const JsonLimits limits_;
  std::string error_;
  size_t values_ = 0;
  std::vector<std::unordered_set<std::string>> keys_;  // by open level
};

}  // namespace

absl::StatusOr<json> ParseStrictJson(std::string_view text,
                                     const JsonLimits& limits) {
  Guard guard(limits);
  if (!json::sax_parse(text.begin(), text.end(), &guard)) {
    return absl::InvalidArgumentError(guard.error().empty() ? "not JSON"
                                                            : guard.error());
  }
  json value = json::parse(text.begin(),
                           text.end(),
                           /*cb=*/nullptr,
                           /*allow_exceptions=*/false);
  if (value.is_discarded()) return absl::InvalidArgumentError("not JSON");
  return value;
}

std::string Quoted(std::string_view text) {
  const bool cut = text.size() > kQuotedBytesMax;
  text = text.substr(0, kQuotedBytesMax);
  return absl::StrCat(
      "\"", absl::CHexEscape({text.data(), text.size()}), cut ? "...\"" : "\"");
}

std::string QuoteNonFiniteWords(std::string_view text) {
  static constexpr std::array<std::string_view, 3> kWords = {
      "-Infinity", "Infinity", "NaN"};
  std::string out;
  out.reserve(text.size());
  bool in_string = false;
  for (size_t i = 0; i < text.size();) {
    std::string_view word;
    if (!in_string) {
      for (const std::string_view candidate : kWords) {
        if (text.substr(i, candidate.size()) == candidate) word = candidate;
        if (!word.empty()) break;
      }
    }
    if (!word.empty()) {
      out.append("\"").append(word).append("\"");
      i += word.size();
      continue;
    }
    if (text[i] == '"') in_string = !in_string;
    if (in_string && text[i] == '\\' && i + 1 < text.size()) {
      out.push_back(text[i++]);
    }
    out.push_back(text[i++]);
  }
  return out;
}

}  // namespace weir::engine
