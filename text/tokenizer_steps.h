// SPDX-License-Identifier: Apache-2.0
//
// The steps of tokenizer.json, read from its sections. Understood are
//
//   normalizer      NFC, Prepend, Replace (of a text), Sequence
//   pre_tokenizer   ByteLevel, Split, Digits, Metaspace, Whitespace,
//                   WhitespaceSplit, Punctuation, Sequence
//   decoder         ByteLevel, ByteFallback, Fuse, Metaspace, Replace (of a
//                   text), Strip, Sequence
//   post_processor  ByteLevel, TemplateProcessing, Sequence: their tokens are
//                   not added
//
// and all else is refused by name, as is an order of them that cannot be
// followed token by token.
//
// Threads: pure functions.
#pragma once

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "nlohmann/json.hpp"
#include "text/normalizer.h"
#include "text/pre_tokenizer.h"
#include "text/token_text.h"

namespace weir::text {

struct PreTokenizerSection {
  PreTokenizer steps;
  bool byte_level = false;  // words are then spelled in bytes
};

// Each takes the section's value, null where the file has none.
absl::StatusOr<Normalizer> ReadNormalizer(const nlohmann::json* section);
absl::StatusOr<PreTokenizerSection> ReadPreTokenizer(
    const nlohmann::json* section);
absl::StatusOr<TokenText> ReadDecoder(const nlohmann::json* section);
absl::Status CheckPostProcessor(const nlohmann::json* section);

}  // namespace weir::text
