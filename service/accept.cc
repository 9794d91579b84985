// SPDX-License-Identifier: Apache-2.0
#include "service/accept.h"

#include <algorithm>

namespace weir::service {

Judgement JudgeAppend(uint64_t expected,
                      uint64_t count,
                      uint64_t end,
                      uint64_t session_max) {
  if (count == 0) return {Verdict::kEmpty, 0};
  if (expected > session_max || count > session_max - expected) {
    return {Verdict::kLength, 0};
  }
  if (expected > end) return {Verdict::kAhead, 0};
  if (expected == end) return {Verdict::kFresh, 0};
  return {Verdict::kBehind, std::min(count, end - expected)};
}

uint64_t EqualTokens(std::span<const uint32_t> a, std::span<const uint32_t> b) {
  const size_t count = std::min(a.size(), b.size());
  const auto differing = std::mismatch(a.begin(), a.begin() + count, b.begin());
  return static_cast<uint64_t>(differing.first - a.begin());
}

}  // namespace weir::service
