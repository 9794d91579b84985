// SPDX-License-Identifier: Apache-2.0
#include "text/added_tokens.h"

#include <algorithm>
#include <utility>

#include "absl/container/flat_hash_set.h"
#include "base/status_macros.h"
#include "text/refusal.h"
#include "text/utf8.h"

namespace weir::text {
namespace {

size_t SpaceBefore(std::string_view text, size_t begin) {
  while (begin > 0) {
    const size_t before = CharacterBefore(text, begin);
    if (!IsWhiteSpace(CodePointAt(text, before).value)) break;
    begin = before;
  }
  return begin;
}

size_t SpaceAfter(std::string_view text, size_t end) {
  while (end < text.size()) {
    const CodePoint point = CodePointAt(text, end);
    if (!IsWhiteSpace(point.value)) break;
    end += point.bytes;
  }
  return end;
}

}  // namespace

absl::StatusOr<AddedTokens> AddedTokens::Create(
    std::vector<AddedToken> tokens) {
  AddedTokens out;
  absl::flat_hash_set<std::string> seen;
  for (AddedToken& token : tokens) {
    if (token.content.empty() || !seen.insert(token.content).second) continue;
    out.tokens_.push_back(std::move(token));
  }
  std::vector<ByteTrie::Entry> entries;
  bool single_word = false;
  for (uint32_t n = 0; n < out.tokens_.size(); ++n) {
    const std::string& content = out.tokens_[n].content;
    entries.push_back({content, n});
    out.begins_[static_cast<uint8_t>(content[0])] = true;
    single_word = single_word || out.tokens_[n].single_word;
  }
  out.trie_ = ByteTrie(std::move(entries));
  if (single_word) {
    WEIR_ASSIGN_OR_RETURN(
        out.word_,
        Regex::Compile(
            "[\\p{Alphabetic}\\p{M}\\p{Nd}\\p{Pc}\\p{Join_Control}]"));
  }
  return out;
}

absl::Status AddedTokens::Cut(std::string_view text,
                              Matcher& matcher,
                              Sink sink) const {
  size_t done = 0;
  for (size_t at = 0; at < text.size() && !trie_.empty();) {
    const bool begins = begins_[static_cast<uint8_t>(text[at])];
    const ByteTrie::Match match =
        begins ? trie_.Longest(text, at) : ByteTrie::Match();
    if (match.bytes == 0) {
      ++at;
      continue;
    }
    const AddedToken& token = tokens_[match.value];
    size_t begin = at;
    size_t end = at + match.bytes;
    at = end;
    if (token.single_word) {
      bool within = false;
      WEIR_RETURN_IF_ERROR(WithinWord(text, begin, end, matcher, within));
      if (within) continue;
    }
    // White space that an earlier token took is not taken again.
    if (token.lstrip) begin = std::max(SpaceBefore(text, begin), done);
    if (token.rstrip) end = SpaceAfter(text, end);
    if (done < begin) {
      WEIR_RETURN_IF_ERROR(sink(text.substr(done, begin - done), std::nullopt));
    }
    WEIR_RETURN_IF_ERROR(sink({}, token.id));
    done = end;
  }
  if (done == text.size()) return absl::OkStatus();
  return sink(text.substr(done), std::nullopt);
}

absl::Status AddedTokens::WithinWord(std::string_view text,
                                     size_t begin,
                                     size_t end,
                                     Matcher& matcher,
                                     bool& within) const {
  Matcher::Match match;
  if (begin > 0) {
    const size_t before = CharacterBefore(text, begin);
    WEIR_RETURN_IF_ERROR(
        matcher.Find(*word_, text.substr(before, begin - before), 0, match));
    within = match.found;
  }
  if (end < text.size() && !within) {
    const size_t bytes = CodePointAt(text, end).bytes;
    WEIR_RETURN_IF_ERROR(
        matcher.Find(*word_, text.substr(end, bytes), 0, match));
    within = match.found;
  }
  return absl::OkStatus();
}

}  // namespace weir::text
