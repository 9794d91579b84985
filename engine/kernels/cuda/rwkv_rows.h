// SPDX-License-Identifier: Apache-2.0
//
// What RWKV puts around its recurrence on a GPU, by rwkv.h's formulas, over
// tokens [0, tokens).
//
// Bound: bytes of device memory.
//
// Threads: any; the work is put on the caller's stream. Arrays lie in device
// memory. Each returns what the launch returned.
#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>

#include "engine/kernels/cuda/decode.h"
#include "engine/kernels/rwkv.h"

namespace weir::engine {

cudaError_t Rwkv7TermRows(const Rwkv7TermArgs& args,
                          int64_t tokens,
                          cudaStream_t stream);
// first, mix and v [T, width], contiguous.
cudaError_t Rwkv7ValueRows(const float* first,
                           const float* mix,
                           int32_t width,
                           float* v,
                           int64_t tokens,
                           cudaStream_t stream);
// out [T, heads, V] of `number`, contiguous; y is read alone.
cudaError_t Rwkv7BonusRows(const Rwkv7BonusArgs& args,
                           StateNumber number,
                           void* out,
                           int64_t tokens,
                           cudaStream_t stream);
cudaError_t Rwkv6DecayRows(float* w, int64_t count, cudaStream_t stream);

// residual += sigmoid(gate) up, over [count]: the end of a channel mix.
cudaError_t AddGatedNumbers(const float* gate,
                            const float* up,
                            int64_t count,
                            float* residual,
                            cudaStream_t stream);

}  // namespace weir::engine
