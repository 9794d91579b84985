// SPDX-License-Identifier: Apache-2.0
//
// RWKV's token shift on a GPU, by token_shift.h's formulas: a token's row moved
// towards that of the token before it, by as many shares as there are products
// that take it, each written as products take it.
//
//   mixed_m,t = x_t + (x_{t-1} - x_t) (mix_m + add_m,t)
//
// Bound: bytes of device memory; a row twice in and once out for each share.
//
// Threads: any; the work is put on the caller's stream and holds no count that
// a captured step would have to change. Each returns what the launch returned,
// or cudaErrorInvalidValue for what it does not take.
#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>

#include "engine/kernels/cuda/decode.h"
#include "engine/kernels/cuda/mixer_rows.h"

namespace weir::engine {

// The rows of a batch and what their slots hold: the row of the last token, or
// anything where the slot is fresh, which reads as zero. Arrays lie in device
// memory.
struct ShiftedRows {
  RaggedRows of;
  int32_t channels = 0;      // C
  const float* x = nullptr;  // [T, C], contiguous
  float* state = nullptr;    // [slots][C]
  int64_t state_stride = 0;  // floats between two slots
};

struct ShiftShares {
  int32_t count = 0;           // M
  const float* mix = nullptr;  // [M, C]
  const float* add = nullptr;  // [M][T, C], or null
  StateNumber number = StateNumber::kBfloat16;
  void* out = nullptr;  // [M][T, C] of `number`; tokens of padding give 0
  int64_t pitch = 0;    // numbers between two shares of out, and of add
};

// Reads the state and leaves it.
cudaError_t MixShiftedRows(const ShiftedRows& rows,
                           const ShiftShares& shares,
                           cudaStream_t stream);
// The row of each batch row's last token becomes its slot's, after all that
// reads the one before; of a row without tokens the slot stays as it is.
cudaError_t KeepLastRows(const ShiftedRows& rows, cudaStream_t stream);

}  // namespace weir::engine
