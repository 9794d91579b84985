// SPDX-License-Identifier: Apache-2.0
//
// Tokenizers of a few tokens, as the tests' starting points.
//
// Threads: pure functions.
#pragma once

#include <string>

#include "nlohmann/json.hpp"
#include "text/bpe_tokenizer.h"

namespace weir::text {

// tokenizer.json of a byte-level BPE: 256 bytes, "th", "the", "aa", "aaaa", and
// <|end|>, which is special.
nlohmann::json ByteLevelFile();

// tokenizer.json in Llama 2's style: <unk>, bytes as <0x..>, some letters.
nlohmann::json SpaceLevelFile();

// The tokenizer of a good file.
BpeTokenizer Parsed(const nlohmann::json& file);

// Why a file is refused; empty if it is not.
std::string RefusalOf(const nlohmann::json& file, uint32_t vocabulary = 65536);

}  // namespace weir::text
