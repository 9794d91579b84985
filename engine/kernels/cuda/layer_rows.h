// SPDX-License-Identifier: Apache-2.0
//
// What stands between a model's parts on a GPU, one row of numbers a token: the
// embedding, norms of the fp32 residual stream, the feed-forward part's gate,
// and the output rows that slots keep.
//
// Bound: bytes of device memory, each row once in and once out.
//
// Threads: any; the work is put on the caller's stream and holds no count that
// a captured step would have to change. Each returns what the launch returned.
#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>

#include "engine/kernels/cuda/decode.h"
#include "engine/kernels/pointwise.h"

namespace weir::engine {

// Arrays lie in device memory. Rows of `number` begin at 16 bytes.

// residual [count, hidden] = table[tokens]; table [vocabulary, hidden] of
// `number`. REQUIRES: tokens lie in the vocabulary.
cudaError_t EmbedTokens(const uint32_t* tokens,
                        int64_t count,
                        const void* table,
                        StateNumber number,
                        int32_t hidden,
                        float* residual,
                        cudaStream_t stream);

// out [rows, width] of `number` = norm of x [rows, width], as pointwise.h has
// it.
cudaError_t NormRows(const NormArgs& args,
                     const float* x,
                     int64_t rows,
                     StateNumber number,
                     void* out,
                     cudaStream_t stream);

// out [rows, width] = silu(gate) * up, of gate_up [rows][gate width | up
// width].
cudaError_t SiluMultiplyRows(const void* gate_up,
                             int64_t rows,
                             int32_t width,
                             StateNumber number,
                             void* out,
                             cudaStream_t stream);

// The slots' output rows: slot s has [hidden] of `number` from s * stride on.
struct OutputRows {
  int32_t hidden = 0;
  StateNumber number = StateNumber::kBfloat16;
  void* slots = nullptr;
  int64_t slot_stride = 0;  // numbers
};

// Row r's last output, of outputs [T, hidden], becomes that of slots[r]; where
// it is not finite, unfit[plan_rows[r]] becomes 1. A slot of -1 is padding.
struct KeepOutputsArgs {
  OutputRows rows_of_slots;
  int32_t rows = 0;
  const int32_t* slots = nullptr;      // [rows]
  const int32_t* last = nullptr;       // [rows], of outputs
  const int32_t* plan_rows = nullptr;  // [rows]
  const void* outputs = nullptr;
  uint32_t* unfit = nullptr;
};
cudaError_t KeepOutputs(const KeepOutputsArgs& args, cudaStream_t stream);

// out [count, hidden] = rows of outputs [T, hidden], or of slots where sources
// say so: source i >= 0 is a row of outputs, -1 is padding and gives zeros, and
// -2 - s is the slot s.
struct GatherOutputsArgs {
  OutputRows rows_of_slots;
  int32_t count = 0;
  const int32_t* sources = nullptr;  // [count]
  const void* outputs = nullptr;
  void* out = nullptr;
};
cudaError_t GatherOutputs(const GatherOutputsArgs& args, cudaStream_t stream);

// logits = cap tanh(logits / cap), over [count].
cudaError_t SoftCapLogits(float* logits,
                          int64_t count,
                          float cap,
                          cudaStream_t stream);

}  // namespace weir::engine
