// SPDX-License-Identifier: Apache-2.0
//
// What stands around the chunk form in Gated DeltaNet's mixer, for rows of many
// tokens: PrepareGatedDelta, RecurrenceChunk, FinishGatedDelta are what
// gated_delta_decode.h does in one launch.
//
// Bound: bytes of device memory. The convolution reads a token's projections
// once and writes as much; the norm reads o and z and writes as much as one.
//
// Threads: any; the work is put on the caller's stream. Counts that change from
// step to step are read on the device: `tokens` may be more than the rows have.
#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>

#include "engine/kernels/cuda/decode.h"
#include "engine/kernels/pointwise.h"

namespace weir::engine {

// Arrays lie in device memory. Row r owns tokens [row_starts[r], row_starts[r +
// 1]) and the window of slots[r]; of a row whose slot is -1 nothing is read or
// written.
struct GatedDeltaPrepareArgs {
  int32_t rows = 0;
  int64_t tokens = 0;                   // the last of row_starts, or more
  int32_t heads = 0;                    // value heads
  int32_t key_heads = 0;                // divides heads
  int32_t key_dim = 0;                  // K: 64, 128 or 256
  int32_t value_dim = 0;                // V, a multiple of 8
  int32_t conv_width = 0;               // W, 2 to 8
  const int32_t* row_starts = nullptr;  // [rows + 1]
  const int32_t* slots = nullptr;       // [rows]
  // [rows]: tokens that the slot has consumed; none: the window reads as zero.
  // May wrap at a multiple of W that is not 0.
  const uint32_t* consumed = nullptr;

  // As GatedDeltaDecodeArgs has them.
  StateNumber number = StateNumber::kBfloat16;
  const void* projected = nullptr;  // [T][q|k|v and more]
  int64_t projected_stride = 0;     // numbers between two tokens
  int64_t a_column = 0;
  int64_t b_column = 0;
  const float* conv_weight = nullptr;  // [q|k|v, W], 16-byte aligned
  const float* conv_bias = nullptr;    // [q|k|v] or null
  const float* log2_rate = nullptr;    // [heads], -exp(a_log) log2(e)
  const float* dt_bias = nullptr;      // [heads]
  float beta_scale = 1;
  // [slots][W, q|k|v] of `number`: token n's inputs in entry n % W.
  void* window = nullptr;
  int64_t window_stride = 0;

  // q [key_heads, K] of length K^-1/2, k [key_heads, K] of length one and v
  // [heads, V] of a token, one behind the other, of `number`; 16-byte aligned,
  // as is the stride's number of bytes.
  void* mixed = nullptr;
  int64_t mixed_stride = 0;     // numbers between two tokens
  float* log2_decay = nullptr;  // [T][heads]
  float* beta = nullptr;        // [T][heads]
};

// cudaErrorInvalidValue for what the kernels do not take; else the launches'.
// A token's numbers depend on its row alone, to the bit, however it is cut into
// calls.
cudaError_t PrepareGatedDelta(const GatedDeltaPrepareArgs& args,
                              cudaStream_t stream);

// out = rmsnorm(o) weight g(z), each head of V numbers by itself. Rows of slot
// -1 are computed too, of whatever stands there.
struct GatedDeltaFinishArgs {
  int64_t tokens = 0;  // the last of row_starts, or more
  int32_t rows = 0;
  const int32_t* row_starts = nullptr;  // [rows + 1]; null: all of `tokens`
  int32_t heads = 0;
  int32_t value_dim = 0;  // V, a multiple of 8, at most 512
  StateNumber number = StateNumber::kBfloat16;
  const void* o = nullptr;  // [T][heads, V]
  int64_t o_stride = 0;     // numbers between two tokens
  const void* z = nullptr;  // [T][heads, V]; unused without a gate
  int64_t z_stride = 0;
  const float* norm_weight = nullptr;  // [V], 16-byte aligned
  float norm_eps = 0;
  GateKind gate = GateKind::kSilu;
  void* out = nullptr;  // [T][heads, V], may be o
  int64_t out_stride = 0;
};

// cudaErrorInvalidValue for what the kernel does not take; else the launch's.
cudaError_t FinishGatedDelta(const GatedDeltaFinishArgs& args,
                             cudaStream_t stream);

}  // namespace weir::engine
