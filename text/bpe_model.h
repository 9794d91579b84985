// SPDX-License-Identifier: Apache-2.0
//
// Byte-pair encoding of one word, as the model part of tokenizer.json says.
//
// Threads: constant after construction; used from any.
#pragma once

#include <array>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "text/merge_table.h"

namespace weir::text {

class BpeModel {
 public:
  using Vocabulary = absl::flat_hash_map<std::string, uint32_t>;
  using NamedMerges = std::vector<std::pair<std::string, std::string>>;
  struct Options {
    bool byte_level = false;     // words are bytes, tokens spell them
    bool byte_fallback = false;  // what has no token becomes <0x..> tokens
    bool ignore_merges = false;  // a word that is a token is that token
    bool fuse_unknown = false;   // neighbouring unknowns are one token
    std::optional<uint32_t> unknown;
  };

  BpeModel() = default;
  // INVALID_ARGUMENT for a merge of or to something not in the vocabulary, one
  // of nothing, which would go on for ever, and one that stands twice.
  static absl::StatusOr<BpeModel> Create(const Vocabulary& vocabulary,
                                         const NamedMerges& merges,
                                         const Options& options);

  // Appends the tokens of `word`. INVALID_ARGUMENT where a character has none:
  // no token, no fallback, no unknown; a part of the word may have been
  // appended. REQUIRES: `word` is valid UTF-8.
  absl::Status Encode(std::string_view word, std::vector<uint32_t>& ids) const;

 private:
  static constexpr uint32_t kNone = UINT32_MAX;

  void ReadCharacters(const Vocabulary& vocabulary);
  uint32_t Character(char32_t value) const;
  bool FallBack(std::string_view character, MergeTable::Word& symbols) const;

  Options options_;
  MergeTable merges_;
  std::array<uint32_t, 256> low_;  // by byte if byte_level, else by code point
  absl::flat_hash_map<char32_t, uint32_t> high_;
  std::array<uint32_t, 256> fallback_;
  absl::flat_hash_map<std::string, uint32_t> words_;  // with ignore_merges
};

}  // namespace weir::text
