// SPDX-License-Identifier: Apache-2.0
//
// What stands between a mixer's products and its recurrence on a GPU, one row
// of fp32 numbers a token: the short convolution with its window, activations,
// the norms of heads, positions, and the gated norm at the mixer's end. The
// formulas are those of pointwise.h and short_conv.h.
//
// Bound: bytes of device memory, each row once in and once out.
//
// Threads: any; the work is put on the caller's stream and holds no count that
// a captured step would have to change. Each returns what the launch returned,
// or cudaErrorInvalidValue for what it does not take.
#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>

#include "engine/kernels/activation.h"
#include "engine/kernels/cuda/decode.h"
#include "engine/kernels/pointwise.h"

namespace weir::engine {

// Arrays lie in device memory. Row r owns tokens [row_starts[r], row_starts[r +
// 1]) and what lies at slots[r]; of a row whose slot is -1 no address of a slot
// is formed.
struct RaggedRows {
  int32_t rows = 0;
  int64_t tokens = 0;                   // the last of row_starts, or more
  const int32_t* row_starts = nullptr;  // [rows + 1]
  const int32_t* slots = nullptr;       // [rows]
  // [rows]: 0 for a slot that has consumed no token, which reads as zero
  // whatever it holds.
  const uint32_t* consumed = nullptr;
};

// out = what stands between x and the recurrence, per channel, in this order:
// the convolution, if there is one; SiLU for channels [silu_begin, silu_end);
// `map` for [0, mapped); a factor for [0, scaled). Tokens of padding give 0.
struct MixRowsArgs {
  RaggedRows of;
  int32_t channels = 0;
  int32_t conv_width = 0;  // W, 2 to 8; 0: no convolution
  int32_t silu_begin = 0;
  int32_t silu_end = 0;
  int32_t mapped = 0;
  Activation map = Activation::kNone;
  int32_t scaled = 0;
  float scale = 1;
  TokenRows x;                    // [T][channels]
  const float* weight = nullptr;  // [W, channels], the last tap meets x_t
  const float* bias = nullptr;    // [channels] or null
  float* out = nullptr;           // [T, channels], contiguous; not x
  // [slots][W - 1, channels], the last inputs, the oldest first; in and out.
  float* window = nullptr;
  int64_t window_stride = 0;  // floats between two slots
};
cudaError_t MixRows(const MixRowsArgs& args, cudaStream_t stream);

// NormalizeHeads of pointwise.h.
cudaError_t NormalizeHeadRows(const HeadNormArgs& args,
                              int64_t tokens,
                              cudaStream_t stream);

// RetNet's positions: heads of q and k turned by the angles of their position,
// their halves together, and the rows' positions moved on. A position is two
// floats, position / 2^24 and the rest.
struct TurnRowsArgs {
  RaggedRows of;
  int32_t heads = 0;               // of each
  int32_t dim = 0;                 // even
  float* q = nullptr;              // [T][heads, dim], in and out
  float* k = nullptr;              // likewise
  int64_t stride = 0;              // floats between two tokens of either
  const double* angles = nullptr;  // [dim / 2], of one token
  float* positions = nullptr;      // [slots][2], in and out
  int64_t position_stride = 0;     // floats between two slots
};
cudaError_t TurnRows(const TurnRowsArgs& args, cudaStream_t stream);

// Several writes a token become as many rows for the recurrence: its decay
// stands before the first, its query reads after the last; the others decay by
// nothing and are not read.
struct SpreadWritesArgs {
  RaggedRows of;
  int32_t writes = 0;  // n
  int32_t heads = 0;
  int32_t keys = 0;      // of all heads
  int32_t values = 0;    // of all heads
  TokenRows q;           // [T][keys]
  TokenRows k;           // [T][n, keys]
  TokenRows v;           // [T][n, values]
  TokenRows log2_decay;  // [T][heads]
  // [T, n, ...] each, contiguous.
  float* write_q = nullptr;
  float* write_k = nullptr;
  float* write_v = nullptr;
  float* write_decay = nullptr;
  int32_t* write_starts = nullptr;  // [rows + 1]: row_starts times n
};
cudaError_t SpreadWrites(const SpreadWritesArgs& args, cudaStream_t stream);

// x [T][width] += bias [width].
cudaError_t AddBiasRows(float* x,
                        int64_t stride,
                        int64_t tokens,
                        int32_t width,
                        const float* bias,
                        cudaStream_t stream);

// out [T, width] of `number` = f(x), contiguous, of x [T][width].
cudaError_t RoundRows(TokenRows x,
                      int64_t tokens,
                      int32_t width,
                      Activation f,
                      StateNumber number,
                      void* out,
                      cudaStream_t stream);
// out [count] = x [count] of bf16.
cudaError_t WidenNumbers(const void* x,
                         int64_t count,
                         float* out,
                         cudaStream_t stream);

// A mixer's end: out = GatedNorm(y), or y without a norm. y is x, and then in
// this order: plus d skip, per head of skip_dim; SiLU; over sums + sums_eps,
// per group.
struct FinishRowsArgs {
  int64_t tokens = 0;
  bool has_norm = true;
  GatedNormArgs norm;   // its `out` is not used
  TokenRows skip = {};  // [T][groups, width], or data == nullptr
  const float* d = nullptr;
  int32_t skip_dim = 0;
  bool has_silu = false;
  TokenRows sums = {};  // [T][groups], or data == nullptr
  float sums_eps = 0;
  StateNumber number = StateNumber::kBfloat16;
  void* out = nullptr;  // [T, groups, width] of `number`, contiguous
};
cudaError_t FinishRows(const FinishRowsArgs& args, cudaStream_t stream);

}  // namespace weir::engine
