// SPDX-License-Identifier: Apache-2.0
//
// tokenizer.json of Hugging Face, for models of byte-pair encoding. Every field
// is either understood or refused by name; tokenizer_steps.h lists the steps.
//
// Threads: pure functions.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string_view>

#include "absl/status/statusor.h"
#include "text/bpe_tokenizer.h"

namespace weir::text {

constexpr size_t kTokenizerJsonBytesMax = size_t{64} << 20;

// Reads the file's text for a model whose ids are below `vocabulary`.
// INVALID_ARGUMENT with what is wrong: no JSON, a field or a value that is not
// understood, ids with gaps, twice, or beyond the model's, merges of or to
// unknown tokens.
absl::StatusOr<BpeTokenizer> ParseTokenizerJson(std::string_view file,
                                                uint32_t vocabulary);

}  // namespace weir::text
