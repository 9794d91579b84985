// SPDX-License-Identifier: Apache-2.0
//
// Tokens that a text is searched for before anything else is done to it, such
// as
// <|endoftext|>: they are found whole, and nothing merges across them.
//
// Threads: constant after construction; used from any.
#pragma once

#include <array>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "absl/functional/function_ref.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "text/byte_trie.h"
#include "text/regex.h"

namespace weir::text {

struct AddedToken {
  uint32_t id = 0;
  std::string content;
  bool single_word = false;  // not within a word
  bool lstrip = false;       // takes the white space before it
  bool rstrip = false;       // takes the white space after it
  bool normalized = false;   // is looked for in the normalised text
  bool special = false;      // has no text when decoded
};

class AddedTokens {
 public:
  // A stretch of text, or the token that was found in its place.
  using Sink = absl::FunctionRef<absl::Status(std::string_view text,
                                              std::optional<uint32_t> id)>;

  AddedTokens() = default;
  // `tokens` with what to look for as their content; of equal contents the
  // first counts.
  static absl::StatusOr<AddedTokens> Create(std::vector<AddedToken> tokens);

  // Cuts `text` at the tokens, the leftmost first, the longest of those; ends
  // at the sink's first error. Nothing is given for an empty text. REQUIRES:
  // `text` is valid UTF-8.
  absl::Status Cut(std::string_view text, Matcher& matcher, Sink sink) const;

 private:
  absl::Status WithinWord(std::string_view text,
                          size_t begin,
                          size_t end,
                          Matcher& matcher,
                          bool& within) const;

  std::vector<AddedToken> tokens_;
  ByteTrie trie_;
  std::array<bool, 256> begins_{};  // by byte: whether a token begins with it
  std::optional<Regex> word_;       // one character of a word
};

}  // namespace weir::text
