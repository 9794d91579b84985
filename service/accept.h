// SPDX-License-Identifier: Apache-2.0
//
// What the position of an append means, before any token has been compared.
//
// Threads: pure functions.
#pragma once

#include <cstdint>
#include <span>

namespace weir::service {

enum class Verdict {
  kEmpty,   // no tokens: a position read
  kFresh,   // at the end: accept all of it
  kBehind,  // some of it is in the log already: compare that first
  kAhead,   // leaves a gap
  kLength,  // passes the longest session
};

struct Judgement {
  Verdict verdict = Verdict::kEmpty;
  uint64_t overlap = 0;  // tokens from the first that the log must hold
};

// Judges an append of `count` tokens at `expected` to a session that has
// accepted `end` tokens and may have `session_max`. No sum wraps. The length
// comes before the gap: no session of any state could take such an append.
Judgement JudgeAppend(uint64_t expected,
                      uint64_t count,
                      uint64_t end,
                      uint64_t session_max);

// The index of the first token that differs, or the size of the shorter one.
uint64_t EqualTokens(std::span<const uint32_t> a, std::span<const uint32_t> b);

}  // namespace weir::service
