// SPDX-License-Identifier: Apache-2.0
#include "service/issue.h"

#include <sys/random.h>

#include <array>

#include "absl/strings/escaping.h"
#include "absl/strings/string_view.h"
#include "base/check.h"

namespace weir::service {
namespace {

template <size_t kBytes>
std::array<char, kBytes> RandomBytes() {
  std::array<char, kBytes> bytes{};
  // Up to 256 bytes come whole or not at all, and once seeded never fail.
  WEIR_CHECK(getrandom(bytes.data(), kBytes, 0) == kBytes);
  return bytes;
}

}  // namespace

std::string IssueSessionId() {
  const std::array<char, 16> bytes = RandomBytes<16>();
  return absl::BytesToHexString(absl::string_view(bytes.data(), bytes.size()));
}

uint64_t IssueSeed() {
  uint64_t seed = 0;
  for (const char byte : RandomBytes<sizeof(seed)>()) {
    seed = seed << 8 | static_cast<uint8_t>(byte);
  }
  return seed;
}

}  // namespace weir::service
