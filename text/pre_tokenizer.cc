// SPDX-License-Identifier: Apache-2.0
#include "text/pre_tokenizer.h"

#include <algorithm>

#include "base/status_macros.h"
#include "text/normalizer.h"

namespace weir::text {
namespace {

using Match = Matcher::Match;
using PieceSink =
    absl::FunctionRef<absl::Status(size_t begin, size_t end, bool removed)>;

absl::Status Find(const std::variant<Regex, std::string>& pattern,
                  std::string_view text,
                  size_t from,
                  Matcher& matcher,
                  Match& match) {
  if (const Regex* regex = std::get_if<Regex>(&pattern)) {
    return matcher.Find(*regex, text, from, match);
  }
  const std::string& literal = std::get<std::string>(pattern);
  match.begin = text.find(literal, from);
  match.found = match.begin != std::string_view::npos;
  match.end = match.begin + literal.size();
  return absl::OkStatus();
}

// Joins what matched and what lies between into pieces, as a behavior says.
// Only the last piece can still grow.
class Joiner {
 public:
  Joiner(SplitBehavior behavior, PieceSink sink)
      : behavior_(behavior), sink_(sink) {}

  absl::Status Add(size_t begin, size_t end, bool matched) {
    if (!Joins(matched)) {
      WEIR_RETURN_IF_ERROR(Flush());
      begin_ = begin;
    }
    open_ = true;
    end_ = end;
    matched_ = matched;
    return absl::OkStatus();
  }

  absl::Status Flush() {
    if (!open_) return absl::OkStatus();
    open_ = false;
    return sink_(
        begin_, end_, matched_ && behavior_ == SplitBehavior::kRemoved);
  }

 private:
  bool Joins(bool matched) const {
    if (!open_) return false;
    switch (behavior_) {
      case SplitBehavior::kRemoved:
      case SplitBehavior::kIsolated:
        return false;
      case SplitBehavior::kMergedWithPrevious:
        return matched && !matched_;
      case SplitBehavior::kMergedWithNext:
        return !matched && matched_;
      case SplitBehavior::kContiguous:
        return matched == matched_;
    }
    return false;
  }

  const SplitBehavior behavior_;
  const PieceSink sink_;
  bool open_ = false;
  size_t begin_ = 0;
  size_t end_ = 0;
  bool matched_ = false;
};

size_t AfterCharacter(std::string_view text, size_t at) {
  do {
    ++at;
  } while (at < text.size() && (text[at] & 0xc0) == 0x80);
  return at;
}

// Cuts `text` at the matches. An empty match right after a match is none.
absl::Status Split(const SplitStep& split,
                   std::string_view text,
                   Matcher& matcher,
                   PieceSink sink) {
  Joiner joiner(split.behavior, sink);
  size_t done = 0;
  bool after_match = false;
  Match match;
  for (size_t from = 0; from <= text.size();) {
    WEIR_RETURN_IF_ERROR(Find(split.pattern, text, from, matcher, match));
    if (!match.found) break;
    if (match.begin == match.end && after_match && match.end == done) {
      from = AfterCharacter(text, from);
      continue;
    }
    if (match.begin > done) {
      WEIR_RETURN_IF_ERROR(joiner.Add(done, match.begin, split.invert));
    }
    WEIR_RETURN_IF_ERROR(joiner.Add(match.begin, match.end, !split.invert));
    done = from = match.end;
    after_match = true;
  }
  if (done < text.size()) {
    WEIR_RETURN_IF_ERROR(joiner.Add(done, text.size(), split.invert));
  }
  return joiner.Flush();
}

}  // namespace

struct PreTokenizer::Job {
  Matcher& matcher;
  Sink sink;
};

absl::Status PreTokenizer::Run(std::string_view text,
                               bool at_start,
                               Matcher& matcher,
                               Sink sink) const {
  return RunFrom(0, {text, at_start}, {matcher, sink});
}

// As deep as there are steps, which are few.
absl::Status PreTokenizer::RunFrom(size_t step,
                                   Piece piece,
                                   const Job& job) const {
  if (piece.text.empty()) return absl::OkStatus();
  if (step == steps_.size()) return job.sink(piece.text);
  return std::visit([&](const auto& s) { return RunStep(s, step, piece, job); },
                    steps_[step]);
}

absl::Status PreTokenizer::RunStep(const SplitStep& split,
                                   size_t step,
                                   Piece piece,
                                   const Job& job) const {
  return Split(split,
               piece.text,
               job.matcher,
               [&](size_t begin, size_t end, bool removed) {
                 if (removed) return absl::OkStatus();
                 return RunFrom(step + 1,
                                {piece.text.substr(begin, end - begin),
                                 piece.at_start && begin == 0},
                                job);
               });
}

absl::Status PreTokenizer::RunStep(const MetaspaceStep& metaspace,
                                   size_t step,
                                   Piece piece,
                                   const Job& job) const {
  std::string text = ReplaceAll(piece.text, {" ", metaspace.replacement});
  const bool prepends =
      metaspace.prepend == MetaspaceStep::Prepend::kAlways ||
      (metaspace.prepend == MetaspaceStep::Prepend::kFirst && piece.at_start);
  if (prepends && !text.starts_with(metaspace.replacement)) {
    text.insert(0, metaspace.replacement);
  }
  if (!metaspace.split) return RunFrom(step + 1, {text, piece.at_start}, job);
  const std::string_view whole = text;
  for (size_t begin = 0; begin < whole.size();) {
    const size_t end =
        std::min(whole.find(metaspace.replacement, begin + 1), whole.size());
    const Piece word = {whole.substr(begin, end - begin),
                        piece.at_start && begin == 0};
    WEIR_RETURN_IF_ERROR(RunFrom(step + 1, word, job));
    begin = end;
  }
  return absl::OkStatus();
}

absl::Status PreTokenizer::RunStep(const PrefixSpaceStep&,
                                   size_t step,
                                   Piece piece,
                                   const Job& job) const {
  if (piece.text.starts_with(' ')) return RunFrom(step + 1, piece, job);
  std::string text = " ";
  text += piece.text;
  return RunFrom(step + 1, {text, piece.at_start}, job);
}

}  // namespace weir::text
