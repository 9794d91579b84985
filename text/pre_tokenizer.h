// SPDX-License-Identifier: Apache-2.0
//
// How a tokenizer cuts a text into words, within which alone it merges: steps
// of tokenizer.json, each of which cuts what the one before it left.
//
// Threads: constant after construction; used from any.
#pragma once

#include <optional>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

#include "absl/functional/function_ref.h"
#include "absl/status/status.h"
#include "text/regex.h"

namespace weir::text {

// What becomes of the matches that a text is cut at.
enum class SplitBehavior {
  kRemoved,
  kIsolated,            // each is a piece
  kMergedWithPrevious,  // each ends the piece before it
  kMergedWithNext,      // each begins the piece after it
  kContiguous,          // neighbours are one piece
};

struct SplitStep {
  std::variant<Regex, std::string> pattern;  // a string is not empty
  SplitBehavior behavior = SplitBehavior::kIsolated;
  bool invert = false;  // what does not match is cut at
};

// Spaces become `replacement`, which also begins the text.
struct MetaspaceStep {
  enum class Prepend { kAlways, kFirst, kNever };
  std::string replacement;  // one character
  Prepend prepend = Prepend::kAlways;
  bool split = true;  // before each `replacement`
};

// A space begins each piece that has none.
struct PrefixSpaceStep {};

class PreTokenizer {
 public:
  using Step = std::variant<SplitStep, MetaspaceStep, PrefixSpaceStep>;
  using Sink = absl::FunctionRef<absl::Status(std::string_view word)>;

  PreTokenizer() = default;
  explicit PreTokenizer(std::vector<Step> steps) : steps_(std::move(steps)) {}

  // Gives the words of `text`, none of them empty, to `sink` in order, and ends
  // at the first error: of the sink, or where the text takes a regular
  // expression too long. `at_start`: nothing stands before `text`.
  // REQUIRES: `text` is valid UTF-8.
  absl::Status Run(std::string_view text,
                   bool at_start,
                   Matcher& matcher,
                   Sink sink) const;

 private:
  struct Piece {
    std::string_view text;
    bool at_start;
  };
  struct Job;
  absl::Status RunFrom(size_t step, Piece piece, const Job& job) const;
  absl::Status RunStep(const SplitStep& split,
                       size_t step,
                       Piece piece,
                       const Job& job) const;
  absl::Status RunStep(const MetaspaceStep& metaspace,
                       size_t step,
                       Piece piece,
                       const Job& job) const;
  absl::Status RunStep(const PrefixSpaceStep& prefix,
                       size_t step,
                       Piece piece,
                       const Job& job) const;

  std::vector<Step> steps_;
};

}  // namespace weir::text
