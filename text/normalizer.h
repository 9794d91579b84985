// SPDX-License-Identifier: Apache-2.0
//
// What a tokenizer does to a text before it looks at it: steps of
// tokenizer.json that rewrite the text.
//
// Threads: constant after construction; used from any.
#pragma once

#include <string>
#include <string_view>
#include <variant>
#include <vector>

namespace weir::text {

struct NfcStep {};
// Puts `prefix` before a text that is not empty.
struct PrependStep {
  std::string prefix;
};
// Puts `to` for each `from`. REQUIRES: `from` is not empty.
struct ReplaceStep {
  std::string from;
  std::string to;
};

class Normalizer {
 public:
  using Step = std::variant<NfcStep, PrependStep, ReplaceStep>;

  Normalizer() = default;
  explicit Normalizer(std::vector<Step> steps) : steps_(std::move(steps)) {}

  // The normalised text: `text` itself, or what is kept in `room`.
  // REQUIRES: `text` is valid UTF-8.
  std::string_view Run(std::string_view text, std::string& room) const;

 private:
  std::vector<Step> steps_;
};

std::string ReplaceAll(std::string_view text, const ReplaceStep& step);

}  // namespace weir::text
