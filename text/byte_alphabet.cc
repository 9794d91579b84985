// SPDX-License-Identifier: Apache-2.0
#include "text/byte_alphabet.h"

#include <array>

#include "text/utf8.h"

namespace weir::text {
namespace {

constexpr char32_t kMoved = 0x100;
constexpr size_t kCharacters = 0x144;  // one above the last

bool Printable(unsigned byte) {
  return (byte >= 0x21 && byte <= 0x7e) || (byte >= 0xa1 && byte <= 0xac) ||
         byte >= 0xae;
}

struct Alphabet {
  std::array<std::string, 256> characters;
  std::array<int16_t, kCharacters> bytes;

  Alphabet() {
    bytes.fill(-1);
    char32_t next = kMoved;
    for (unsigned byte = 0; byte < 256; ++byte) {
      const char32_t character = Printable(byte) ? byte : next++;
      AppendUtf8(character, characters[byte]);
      bytes[character] = static_cast<int16_t>(byte);
    }
  }

  static const Alphabet& Get() {
    static const Alphabet* const alphabet = new Alphabet;
    return *alphabet;
  }
};

}  // namespace

std::string_view ByteCharacter(uint8_t byte) {
  return Alphabet::Get().characters[byte];
}

std::optional<std::string> BytesOfCharacters(std::string_view token) {
  const Alphabet& alphabet = Alphabet::Get();
  std::string bytes;
  for (size_t at = 0; at < token.size();) {
    const CodePoint point = CodePointAt(token, at);
    if (point.value >= kCharacters || alphabet.bytes[point.value] < 0) {
      return std::nullopt;
    }
    bytes += static_cast<char>(alphabet.bytes[point.value]);
    at += point.bytes;
  }
  return bytes;
}

}  // namespace weir::text
