// SPDX-License-Identifier: Apache-2.0
#include "text/utf8_stream.h"

#include <string_view>

namespace weir::text {
namespace {

constexpr std::string_view kReplacement = "\xef\xbf\xbd";

}  // namespace

void Utf8Stream::Push(uint8_t byte, std::string& text) {
  if (missing_ == 0) return Start(byte, text);
  if (byte < next_min_ || byte > next_max_) {
    Flush(text);
    return Start(byte, text);
  }
  held_ += static_cast<char>(byte);
  next_min_ = 0x80;
  next_max_ = 0xbf;
  if (--missing_ == 0) {
    text += held_;
    held_.clear();
  }
}

void Utf8Stream::Flush(std::string& text) {
  if (missing_ == 0) return;
  text += kReplacement;
  held_.clear();
  missing_ = 0;
}

// The second byte's range keeps overlong forms, surrogates and values beyond
// U+10FFFF out.
void Utf8Stream::Start(uint8_t byte, std::string& text) {
  if (byte < 0x80) {
    text += static_cast<char>(byte);
    return;
  }
  if (byte < 0xc2 || byte > 0xf4) {
    text += kReplacement;
    return;
  }
  held_ = static_cast<char>(byte);
  missing_ = byte < 0xe0 ? 1 : byte < 0xf0 ? 2 : 3;
  next_min_ = byte == 0xe0 ? 0xa0 : byte == 0xf0 ? 0x90 : 0x80;
  next_max_ = byte == 0xed ? 0x9f : byte == 0xf4 ? 0x8f : 0xbf;
}

}  // namespace weir::text
