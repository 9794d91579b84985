// SPDX-License-Identifier: Apache-2.0
//
// Causal depthwise convolution over a ragged batch, with SiLU. Per channel c:
//
//   y_t = silu(bias + sum_{i < W} weight[i][c] x_{t - W + 1 + i})
//
// The first `plain` channels go without the SiLU.
//
// The W - 1 inputs before a row's first token come from the state of its slot;
// after its last token the state holds the last W - 1 inputs.
//
// Threads and slots of -1: as recurrence.h; work items are blocks of channels:
// channel_blocks.h.
#pragma once

#include <cstdint>

#include "engine/kernels/channel_blocks.h"
#include "engine/kernels/recurrence.h"

namespace weir::engine {

struct ShortConvArgs {
  int32_t rows = 0;
  int32_t channels = 0;                 // C
  int32_t width = 0;                    // W, 2 to 8
  int32_t plain = 0;                    // channels
  const int32_t* row_starts = nullptr;  // [rows + 1]
  const int32_t* slots = nullptr;       // [rows]
  TokenRows x;                          // [T][C]
  const float* weight = nullptr;        // [W, C], the last tap meets x_t
  const float* bias = nullptr;          // [C] or nullptr
  float* out = nullptr;                 // [T][C]; may not alias x
  int64_t out_stride = 0;               // floats between two tokens of out
  float* state = nullptr;               // [slots][W - 1, C], oldest first
  int64_t state_stride = 0;             // floats between two slots of state
};

// The definition, in fp64, one thread.
void ShortConvReference(const ShortConvArgs& args);

// Items [begin, end), vectorised over channels.
void ShortConv(const ShortConvArgs& args, int64_t begin, int64_t end);

}  // namespace weir::engine
