// SPDX-License-Identifier: Apache-2.0
#include "text/byte_tokens.h"

namespace weir::text {

std::vector<uint32_t> BytesToTokens(std::string_view text) {
  std::vector<uint32_t> tokens;
  tokens.reserve(text.size());
  for (char c : text) tokens.push_back(static_cast<uint8_t>(c));
  return tokens;
}

std::optional<uint8_t> TokenToByte(uint32_t token) {
  if (token > 0xff) return std::nullopt;
  return static_cast<uint8_t>(token);
}

}  // namespace weir::text
