// SPDX-License-Identifier: Apache-2.0
#include "server/generation_text.h"

namespace weir::server {

std::string GenerationText::Push(uint32_t token) {
  return matcher_.Push(decoder_.Push(token));
}

std::string GenerationText::Flush() {
  std::string shown = matcher_.Push(decoder_.Flush());
  shown += matcher_.Flush();
  return shown;
}

}  // namespace weir::server
