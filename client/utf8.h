// SPDX-License-Identifier: Apache-2.0
//
// Text for people, from bytes that come in pieces.
//
// Threads: an Utf8Assembler belongs to one thread; the rest is pure.
#pragma once

#include <string>
#include <string_view>

namespace weir::client {

// Puts characters together from bytes. What it returns is always valid UTF-8:
// an unfinished character waits for its rest, a byte that fits nowhere becomes
// U+FFFD.
class Utf8Assembler {
 public:
  // Adds bytes; returns the characters that are complete now.
  std::string Push(std::string_view bytes);
  // At the end: U+FFFD if a character is unfinished.
  std::string Flush();

 private:
  std::string pending_;
};

// Valid UTF-8 with U+FFFD for each byte that fits nowhere.
std::string ToValidUtf8(std::string_view bytes);

// Without what a terminal would obey: control characters but newline and tab
// become U+FFFD. The text must be valid UTF-8.
std::string ForTerminal(std::string_view text);

// Columns of a terminal, a column a character (the tool's own texts hold no
// wide ones).
int Columns(std::string_view text);

// At most so many columns, the last one an ellipsis if it was cut.
std::string CutToColumns(std::string_view text, int columns);

}  // namespace weir::client
