// SPDX-License-Identifier: Apache-2.0
//
// RWKV-4's recurrence (arXiv 2305.13048) over a ragged batch, an average of all
// values so far. Per channel:
//
//   o_t = (n + e^(bonus + k_t) v_t) / (d + e^(bonus + k_t))
//   n <- e^-rate n + e^k_t v_t,  d <- e^-rate d + e^k_t
//
// The state holds n and d by a common exponent, so that no e^k is ever formed:
//
//   n = (sums[0] + sums[1]) e^x,  d = (sums[2] + sums[3]) e^x
//   x = exponent + sums[4]
//
// How the parts share a value is the kernel's choice. A fresh state has an
// exponent of kWkvEmpty and sums of zero.
//
// Threads and slots of -1: as recurrence.h. A call does work items [begin, end)
// of rows * WkvBlocks(channels), item = row * blocks + block.
#pragma once

#include <cstdint>

#include "engine/kernels/recurrence.h"

namespace weir::engine {

// Far below every key, and far from the end of the range.
inline constexpr float kWkvEmpty = -1e38F;
inline constexpr int32_t kWkvSums = 5;
inline constexpr int32_t kWkvBlock = 64;

inline int64_t WkvBlocks(int64_t channels) {
  return (channels + kWkvBlock - 1) / kWkvBlock;
}

struct WkvArgs {
  int32_t rows = 0;
  int32_t channels = 0;                 // C
  const int32_t* row_starts = nullptr;  // [rows + 1]
  const int32_t* slots = nullptr;       // [rows]
  TokenRows k;                          // [T][C]
  TokenRows v;                          // [T][C]
  const float* rate = nullptr;          // [C], at least 0
  const float* bonus = nullptr;         // [C]
  float* out = nullptr;                 // [T][C]; may be v
  int64_t out_stride = 0;               // floats between two tokens of out
  float* sums = nullptr;                // [slots][kWkvSums, C], in and out
  int64_t sums_stride = 0;              // floats between two slots of sums
  float* exponent = nullptr;            // [slots][C], in and out
  int64_t exponent_stride = 0;          // floats between two slots of exponent
};

// The definition, in fp64, which the state holds to some 48 bits; one
// thread.
void WkvReference(const WkvArgs& args);

// Vectorised over channels, one token after another.
// Bound: two exponentials a token and channel; 48 bytes of state a channel and
// row.
void Wkv(const WkvArgs& args, int64_t begin, int64_t end);

}  // namespace weir::engine
