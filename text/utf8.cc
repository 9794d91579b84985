// SPDX-License-Identifier: Apache-2.0
#include "text/utf8.h"

#include <cstring>

namespace weir::text {
namespace {

uint8_t ByteAt(std::string_view text, size_t at) {
  return static_cast<uint8_t>(text[at]);
}

// Bytes of the well-formed character at text[at]; 0 if there is none. The
// second byte's range keeps overlong forms and surrogates out.
size_t WellFormed(std::string_view text, size_t at) {
  const uint8_t lead = ByteAt(text, at);
  if (lead < 0x80) return 1;
  if (lead < 0xc2 || lead > 0xf4) return 0;
  const size_t bytes = lead < 0xe0 ? 2 : lead < 0xf0 ? 3 : 4;
  if (at + bytes > text.size()) return 0;
  const uint8_t least = lead == 0xe0 ? 0xa0 : lead == 0xf0 ? 0x90 : 0x80;
  const uint8_t most = lead == 0xed ? 0x9f : lead == 0xf4 ? 0x8f : 0xbf;
  if (ByteAt(text, at + 1) < least || ByteAt(text, at + 1) > most) return 0;
  for (size_t k = 2; k < bytes; ++k) {
    if ((ByteAt(text, at + k) & 0xc0) != 0x80) return 0;
  }
  return bytes;
}

}  // namespace

std::optional<size_t> InvalidUtf8At(std::string_view text) {
  size_t at = 0;
  while (at < text.size()) {
    // Eight bytes of ASCII at once: most text is little else.
    uint64_t word = 0;
    while (at + sizeof(word) <= text.size()) {
      std::memcpy(&word, text.data() + at, sizeof(word));
      if ((word & 0x8080808080808080) != 0) break;
      at += sizeof(word);
    }
    if (at == text.size()) break;
    const size_t bytes = WellFormed(text, at);
    if (bytes == 0) return at;
    at += bytes;
  }
  return std::nullopt;
}

CodePoint CodePointAt(std::string_view text, size_t at) {
  const uint8_t lead = ByteAt(text, at);
  if (lead < 0x80) return {lead, 1};
  const size_t bytes = lead < 0xe0 ? 2 : lead < 0xf0 ? 3 : 4;
  char32_t value = lead & (0x7f >> bytes);
  for (size_t k = 1; k < bytes; ++k) {
    value = value << 6 | (ByteAt(text, at + k) & 0x3f);
  }
  return {value, bytes};
}

size_t CharacterBefore(std::string_view text, size_t at) {
  do {
    --at;
  } while ((ByteAt(text, at) & 0xc0) == 0x80);
  return at;
}

void AppendUtf8(char32_t value, std::string& text) {
  const auto tail = [&text, value](int shift) {
    text += static_cast<char>(0x80 | (value >> shift & 0x3f));
  };
  if (value < 0x80) {
    text += static_cast<char>(value);
  } else if (value < 0x800) {
    text += static_cast<char>(0xc0 | value >> 6);
    tail(0);
  } else if (value < 0x10000) {
    text += static_cast<char>(0xe0 | value >> 12);
    tail(6);
    tail(0);
  } else {
    text += static_cast<char>(0xf0 | value >> 18);
    tail(12);
    tail(6);
    tail(0);
  }
}

bool IsWhiteSpace(char32_t value) {
  return (value >= 0x09 && value <= 0x0d) || value == 0x20 || value == 0x85 ||
         value == 0xa0 || value == 0x1680 ||
         (value >= 0x2000 && value <= 0x200a) || value == 0x2028 ||
         value == 0x2029 || value == 0x202f || value == 0x205f ||
         value == 0x3000;
}

}  // namespace weir::text
