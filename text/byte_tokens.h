// SPDX-License-Identifier: Apache-2.0
//
// The tokenizer of models whose token ids are bytes: a text's tokens are its
// UTF-8 bytes, and nothing is added.
//
// Threads: pure functions.
#pragma once

#include <cstdint>
#include <optional>
#include <string_view>
#include <vector>

namespace weir::text {

std::vector<uint32_t> BytesToTokens(std::string_view text);

// The byte of a token; nullopt for ids of 256 and above, which have no text.
std::optional<uint8_t> TokenToByte(uint32_t token);

}  // namespace weir::text
