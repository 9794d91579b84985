// SPDX-License-Identifier: Apache-2.0
#include "server/generation_text.h"

#include <optional>

#include "text/byte_tokens.h"

namespace weir::server {

// A token without text breaks off the character before it.
std::string ByteText::Push(uint32_t token) {
  std::string text;
  if (const std::optional<uint8_t> byte = text::TokenToByte(token)) {
    stream_.Push(*byte, text);
  } else {
    stream_.Flush(text);
  }
  return matcher_.Push(text);
}

std::string ByteText::Flush() {
  std::string text;
  stream_.Flush(text);
  std::string shown = matcher_.Push(text);
  shown += matcher_.Flush();
  return shown;
}

}  // namespace weir::server
