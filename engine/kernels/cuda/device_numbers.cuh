// SPDX-License-Identifier: Apache-2.0
//
// What kernels of few operations a number have in common: the functions of
// activation.h, sums over a block and a token's row.
//
// Threads: plain functions; sums are called by all threads of a block together.
#pragma once

#include <cuda_bf16.h>

#include <cstdint>

#include "engine/kernels/activation.h"
#include "engine/kernels/cuda/mixer_rows.h"

namespace weir::engine {

inline constexpr float kLog2E = 1.44269504F;

__device__ inline float ToFloat(float x) { return x; }
__device__ inline float ToFloat(__nv_bfloat16 x) { return __bfloat162float(x); }
template <typename Number>
__device__ inline Number FromFloat(float x) {
  return static_cast<Number>(x);
}

__device__ inline float Sigmoid(float x) { return 1.0F / (1.0F + expf(-x)); }
__device__ inline float Silu(float x) { return x / (1.0F + expf(-x)); }
__device__ inline float Softplus(float x) {
  return fmaxf(x, 0.0F) + log1pf(expf(-fabsf(x)));
}

// A NaN stays one.
__device__ inline float Activated(Activation kind, float x) {
  switch (kind) {
    case Activation::kNone:
      return x;
    case Activation::kTanh:
      return tanhf(x);
    case Activation::kSigmoid:
      return Sigmoid(x);
    case Activation::kSilu:
      return Silu(x);
    case Activation::kRelu:
      return x < 0 ? 0.0F : x;
    case Activation::kSquaredRelu:
      x = x < 0 ? 0.0F : x;
      return x * x;
    case Activation::kEluPlusOne:
      return x < 0 ? expf(x) : x + 1.0F;
  }
  return x;
}

__device__ inline float SumOfWarp(float x) {
#pragma unroll
  for (int step = 16; step > 0; step /= 2) {
    x += __shfl_xor_sync(0xffffffffU, x, step);
  }
  return x;
}

// The same for every thread, and for every run: a fixed tree.
template <int kThreads>
__device__ inline float SumOfBlock(float x) {
  x = SumOfWarp(x);
  if constexpr (kThreads == 32) {
    return x;
  } else {
    __shared__ float sums[kThreads / 32];
    __syncthreads();
    if (threadIdx.x % 32 == 0) sums[threadIdx.x / 32] = x;
    __syncthreads();
    float total = 0;
    for (const float sum : sums) total += sum;
    return total;
  }
}

// The row that owns token t; -1 if none does, or if its slot is padding.
__device__ inline int32_t RowOf(const RaggedRows& of, int64_t t) {
  int32_t low = 0;
  int32_t high = of.rows;  // row_starts[high] is beyond t
  if (t >= of.row_starts[high]) return -1;
  while (high - low > 1) {
    const int32_t middle = (low + high) / 2;
    if (of.row_starts[middle] <= t) {
      low = middle;
    } else {
      high = middle;
    }
  }
  return of.slots[low] < 0 ? -1 : low;
}

}  // namespace weir::engine
