// SPDX-License-Identifier: Apache-2.0
//
// The 256 characters that byte-level vocabularies write bytes as: printable
// ones of Latin-1 as themselves, the others from U+0100 on, in order.
//
// Threads: pure functions.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

namespace weir::text {

// The character of a byte, as UTF-8.
std::string_view ByteCharacter(uint8_t byte);

// The bytes that `token` spells; nullopt if a character of it stands for none.
// REQUIRES: `token` is valid UTF-8.
std::optional<std::string> BytesOfCharacters(std::string_view token);

}  // namespace weir::text
