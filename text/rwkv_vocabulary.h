// SPDX-License-Identifier: Apache-2.0
//
// RWKV's tokenizer: a list of byte strings, of which the longest that fits is
// taken, from the text's first byte to its last. Any bytes can be encoded if
// the list holds all single ones, as the published list does.
//
// The file has one token a line, `index literal bytes`: its id, a Python
// literal, and how many bytes that is. Ids start at 0 or 1 (0 is then the end
// of a text, and has no text itself) and each is one more than the last.
//
// Threads: constant after construction; read from any.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "text/byte_trie.h"

namespace weir::text {

class RwkvVocabulary {
 public:
  static constexpr size_t kFileBytesMax = size_t{8} << 20;
  static constexpr size_t kTokenBytesMax = 1024;

  // Reads the text of a vocabulary file for a model whose ids are below
  // `vocabulary`. INVALID_ARGUMENT with the line and what is wrong: a gap, a
  // duplicate, a wrong length, a literal that cannot be read, an id too high.
  static absl::StatusOr<RwkvVocabulary> Parse(std::string_view file,
                                              uint32_t vocabulary);

  // Appends the ids of `text`. INVALID_ARGUMENT where no token fits.
  absl::Status Encode(std::string_view text, std::vector<uint32_t>& ids) const;

  // The bytes of a token; empty for ids that have none.
  std::string_view Bytes(uint32_t id) const;

  // One more than the highest id.
  uint32_t size() const { return first_id_ + Count(); }

 private:
  absl::Status ReadLine(std::string_view line, uint32_t vocabulary);
  absl::Status Seal();
  uint32_t Count() const { return static_cast<uint32_t>(ends_.size()); }
  // The bytes of the n-th line.
  std::string_view Line(uint32_t n) const;

  uint32_t first_id_ = 0;
  std::string bytes_;         // of all tokens, in the order of their ids
  std::vector<size_t> ends_;  // of each token in bytes_
  ByteTrie trie_;
};

}  // namespace weir::text
