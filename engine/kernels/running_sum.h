// SPDX-License-Identifier: Apache-2.0
//
// Sums over all tokens so far, over a ragged batch. Per row, head, token:
//
//   z <- d_t z + x_t      o_t = z, or (z + eps) . q_t
//
// They grow with the stream, so that what a token adds comes to be smaller than
// the last bit of what is there: a sum is held as two floats, the second what
// the first rounded away. Without decay the error of a million tokens is that
// of one.
//
// Threads and slots of -1: as recurrence.h; a call does work items
// [begin, end) of rows * heads, item = row * heads + head.
//
// REQUIRES: log2_decay <= 0.
#pragma once

#include <cstdint>

#include "engine/kernels/recurrence.h"

namespace weir::engine {

struct RunningSumArgs {
  int32_t rows = 0;
  int32_t heads = 0;
  int32_t dim = 0;                      // of one head
  const int32_t* row_starts = nullptr;  // [rows + 1]
  const int32_t* slots = nullptr;       // [rows]
  TokenRows x;                          // [T][heads, dim]
  TokenRows log2_decay;                 // [T][heads], or data == nullptr
  TokenRows q;                          // [T][heads, dim], or data == nullptr
  float eps = 0;
  float* out = nullptr;      // [T][heads, dim]; with q [T][heads]; not x, q
  int64_t out_stride = 0;    // floats between two tokens of out
  float* state = nullptr;    // [slots][heads, 2, dim], in and out
  int64_t state_stride = 0;  // floats between two slots of state
};

// The definition, in fp64, which the state holds to some 48 bits.
void RunningSumReference(const RunningSumArgs& args);
void RunningSum(const RunningSumArgs& args, int64_t begin, int64_t end);

}  // namespace weir::engine
