// SPDX-License-Identifier: Apache-2.0
//
// Code points of UTF-8 text.
//
// Threads: pure functions.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

namespace weir::text {

struct CodePoint {
  char32_t value = 0;
  size_t bytes = 0;
};

// The byte where `text` stops being UTF-8 (an overlong form, a surrogate, a cut
// character, ...); nullopt if it is valid to the end.
std::optional<size_t> InvalidUtf8At(std::string_view text);

// The code point that starts at text[at].
// REQUIRES: `text` is valid UTF-8 and `at` is the start of a character in it.
CodePoint CodePointAt(std::string_view text, size_t at);

// The start of the character that ends before text[at].
// REQUIRES: as above, and at > 0.
size_t CharacterBefore(std::string_view text, size_t at);

// REQUIRES: `value` is a code point and no surrogate.
void AppendUtf8(char32_t value, std::string& text);

// Whether Unicode gives the code point the property White_Space.
bool IsWhiteSpace(char32_t value);

}  // namespace weir::text
