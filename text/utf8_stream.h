// SPDX-License-Identifier: Apache-2.0
//
// Turns bytes to valid UTF-8 as they come: an unfinished character is held
// until its last byte, and each maximal invalid stretch becomes one U+FFFD (the
// rule of Unicode 3.9, which browsers follow). The text of a byte string does
// not depend on how it was split.
//
// Threads: not thread-safe.
#pragma once

#include <cstdint>
#include <string>

namespace weir::text {

class Utf8Stream {
 public:
  // Adds a byte; appends what is complete to `text`.
  void Push(uint8_t byte, std::string& text);
  // Ends the text: an unfinished character becomes U+FFFD.
  void Flush(std::string& text);

 private:
  void Start(uint8_t byte, std::string& text);

  std::string held_;         // the bytes of an unfinished character
  int missing_ = 0;          // bytes that it still needs
  uint8_t next_min_ = 0x80;  // the range of its next byte
  uint8_t next_max_ = 0xbf;
};

}  // namespace weir::text
