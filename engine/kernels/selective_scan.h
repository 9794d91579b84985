// SPDX-License-Identifier: Apache-2.0
//
// Mamba-1's recurrence (arXiv 2312.00752) over a ragged batch: a decay for each
// channel c and each of its N states n, which no vector of decays over one axis
// can say. Per row and token t:
//
//   dt     = softplus(dt_t[c] + dt_bias[c])
//   S[n,c] <- 2^(dt rate[n,c]) S[n,c] + dt x_t[c] b_t[n]
//   o_t[c] = (sum_n S[n,c] c_t[n] + d[c] x_t[c]) silu(z_t[c])
//
// S is stored with the channels contiguous, so that the sum over n is one
// vector's and needs no sum over lanes.
//
// Threads and slots of -1: as recurrence.h; a call does work items
// [begin, end) of rows * ScanBlocks(channels), item = row * blocks + block.
//
// REQUIRES: rate <= 0.
#pragma once

#include <cstdint>

#include "engine/kernels/recurrence.h"

namespace weir::engine {

// Channels of one work item.
inline constexpr int32_t kScanBlock = 64;

// How many of them cover a row.
int64_t ScanBlocks(int32_t channels);

struct SelectiveScanArgs {
  int32_t rows = 0;
  int32_t channels = 0;                 // C
  int32_t states = 0;                   // N, of one channel
  const int32_t* row_starts = nullptr;  // [rows + 1]
  const int32_t* slots = nullptr;       // [rows]
  TokenRows dt;                         // [T][C], raw
  TokenRows x;                          // [T][C]
  TokenRows b;                          // [T][N]
  TokenRows c;                          // [T][N]
  TokenRows z = {};                     // [T][C]; data == nullptr: no gate
  const float* dt_bias = nullptr;       // [C]
  const float* rate = nullptr;          // [N, C], -exp(A_log) log2(e)
  const float* d = nullptr;             // [C]
  float* out = nullptr;                 // [T][C]; may be dt or x
  int64_t out_stride = 0;               // floats between two tokens of out
  float* state = nullptr;               // [slots][N, C], in and out
  int64_t state_stride = 0;             // floats between two slots of state
};

// The definition: fp64 arithmetic on an fp64 copy of the state, rounded to
// fp32 once at the end of each row. One thread.
void SelectiveScanReference(const SelectiveScanArgs& args);

// One token after another, for rows of any length; one pass over the state a
// row, which stays in registers where N is 8 or 16.
// Bound: about N (2 polynomials of degree 7 and 4 FMAs) a token and channel.
void SelectiveScan(const SelectiveScanArgs& args, int64_t begin, int64_t end);

}  // namespace weir::engine
