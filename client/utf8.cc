// SPDX-License-Identifier: Apache-2.0
#include "client/utf8.h"

#include <cstdint>

namespace weir::client {
namespace {

constexpr std::string_view kReplacement = "\xEF\xBF\xBD";

// What the front of `bytes` is: a character of `length` bytes, a possible
// beginning of one (complete = false), or one bad byte (length 0).
struct Front {
  size_t length = 0;
  bool complete = false;
};

Front ReadFront(std::string_view bytes) {
  const auto at = [&](size_t i) { return static_cast<uint8_t>(bytes[i]); };
  const uint8_t lead = at(0);
  if (lead < 0x80) return {.length = 1, .complete = true};
  if (lead < 0xC2 || lead > 0xF4) return {};
  const size_t length = lead < 0xE0 ? 2 : lead < 0xF0 ? 3 : 4;
  // The second byte alone decides about overlong forms, surrogates and what
  // lies beyond U+10FFFF.
  const uint8_t low = lead == 0xE0 ? 0xA0 : lead == 0xF0 ? 0x90 : 0x80;
  const uint8_t high = lead == 0xED ? 0x9F : lead == 0xF4 ? 0x8F : 0xBF;
  for (size_t i = 1; i < length && i < bytes.size(); ++i) {
    if (at(i) < (i == 1 ? low : 0x80) || at(i) > (i == 1 ? high : 0xBF)) {
      return {};
    }
  }
  return {.length = length, .complete = bytes.size() >= length};
}

}  // namespace

std::string Utf8Assembler::Push(std::string_view bytes) {
  pending_ += bytes;
  std::string text;
  std::string_view rest = pending_;
  while (!rest.empty()) {
    const Front front = ReadFront(rest);
    if (front.length == 0) {
      text += kReplacement;
      rest.remove_prefix(1);
    } else if (front.complete) {
      text += rest.substr(0, front.length);
      rest.remove_prefix(front.length);
    } else {
      break;
    }
  }
  pending_ = std::string(rest);
  return text;
}

std::string Utf8Assembler::Flush() {
  const bool unfinished = !pending_.empty();
  pending_.clear();
  return unfinished ? std::string(kReplacement) : std::string();
}

std::string ToValidUtf8(std::string_view bytes) {
  Utf8Assembler assembler;
  std::string text = assembler.Push(bytes);
  return text + assembler.Flush();
}

std::string ForTerminal(std::string_view text) {
  std::string safe;
  for (size_t i = 0; i < text.size(); ++i) {
    const auto byte = static_cast<uint8_t>(text[i]);
    if ((byte < 0x20 && byte != '\n' && byte != '\t') || byte == 0x7F) {
      safe += kReplacement;
    } else if (byte == 0xC2 && i + 1 < text.size() &&
               static_cast<uint8_t>(text[i + 1]) < 0xA0) {
      safe += kReplacement;  // C1 controls
      ++i;
    } else {
      safe += text[i];
    }
  }
  return safe;
}

int Columns(std::string_view text) {
  int columns = 0;
  for (const char c : text) columns += (static_cast<uint8_t>(c) & 0xC0) != 0x80;
  return columns;
}

std::string CutToColumns(std::string_view text, int columns) {
  if (Columns(text) <= columns) return std::string(text);
  if (columns <= 0) return {};
  size_t end = 0;
  int kept = 0;
  while (end < text.size()) {
    const bool begins = (static_cast<uint8_t>(text[end]) & 0xC0) != 0x80;
    if (begins && ++kept == columns) break;
    ++end;
  }
  return std::string(text.substr(0, end)) + "…";
}

}  // namespace weir::client
