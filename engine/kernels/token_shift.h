// SPDX-License-Identifier: Apache-2.0
//
// Token shift, RWKV's convolution of two taps: a token meets the one before it.
//
//   delta_t = x_{t-1} - x_t            x_{-1} from the state of the row's slot
//   mixed_t = x_t + delta_t (mix + add_t)
//
// After a row's last token the state holds that token.
//
// Threads and slots of -1: as recurrence.h; ShiftTokens' work items are blocks
// of channels (channel_blocks.h), Lerp's the tokens.
#pragma once

#include <cstdint>

#include "engine/kernels/channel_blocks.h"
#include "engine/kernels/recurrence.h"

namespace weir::engine {

struct TokenShiftArgs {
  int32_t rows = 0;
  int32_t channels = 0;                 // C
  const int32_t* row_starts = nullptr;  // [rows + 1]
  const int32_t* slots = nullptr;       // [rows]
  TokenRows x;                          // [T][C]
  float* delta = nullptr;               // [T, C], contiguous
  float* state = nullptr;               // [slots][C]
  int64_t state_stride = 0;             // floats between two slots of state
};

// The definition, one thread.
void ShiftTokensReference(const TokenShiftArgs& args);

// Items [begin, end), vectorised over channels.
void ShiftTokens(const TokenShiftArgs& args, int64_t begin, int64_t end);

struct LerpArgs {
  int32_t channels = 0;        // C
  TokenRows x;                 // [T][C]
  TokenRows delta;             // [T][C]
  const float* mix = nullptr;  // [C]
  TokenRows add = {};          // [T][C], or data == nullptr
  float* out = nullptr;        // [T, C], contiguous; may be add
};

// Tokens [begin, end).
void Lerp(const LerpArgs& args, int64_t begin, int64_t end);

}  // namespace weir::engine
