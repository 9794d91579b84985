// SPDX-License-Identifier: Apache-2.0
//
// Eight neighbouring numbers of a row, as one thread reads, holds and writes
// them: pieces of 16 bytes where the row is aligned.
//
// Threads: plain functions.
#pragma once

#include <cuda_bf16.h>

#include <cstdint>

namespace weir::engine {

inline constexpr int kEight = 8;

template <typename Number>
struct alignas(16) EightNumbers {
  static constexpr int kPieces = kEight * static_cast<int>(sizeof(Number)) / 16;

  Number numbers[kEight];

  template <bool kAligned>
  __device__ static EightNumbers Load(const Number* from) {
    EightNumbers eight;
    if constexpr (kAligned) {
#pragma unroll
      for (int i = 0; i < kPieces; ++i) {
        reinterpret_cast<uint4*>(eight.numbers)[i] =
            reinterpret_cast<const uint4*>(from)[i];
      }
    } else {
#pragma unroll
      for (int i = 0; i < kEight; ++i) eight.numbers[i] = from[i];
    }
    return eight;
  }

  template <bool kAligned>
  __device__ void Store(Number* to) const {
    if constexpr (kAligned) {
#pragma unroll
      for (int i = 0; i < kPieces; ++i) {
        reinterpret_cast<uint4*>(to)[i] =
            reinterpret_cast<const uint4*>(numbers)[i];
      }
    } else {
#pragma unroll
      for (int i = 0; i < kEight; ++i) to[i] = numbers[i];
    }
  }

  __device__ void To(float (&x)[kEight]) const {
#pragma unroll
    for (int i = 0; i < kEight; ++i) x[i] = static_cast<float>(numbers[i]);
  }
  // To the nearest.
  __device__ static EightNumbers Of(const float (&x)[kEight]) {
    EightNumbers eight;
#pragma unroll
    for (int i = 0; i < kEight; i += 2) {
      if constexpr (sizeof(Number) == 2) {
        reinterpret_cast<__nv_bfloat162*>(eight.numbers)[i / 2] =
            __floats2bfloat162_rn(x[i], x[i + 1]);
      } else {
        eight.numbers[i] = x[i];
        eight.numbers[i + 1] = x[i + 1];
      }
    }
    return eight;
  }
};

// Over `lanes` neighbouring lanes, a power of two that is the same in all of a
// warp, whose lanes all call.
__device__ inline float SumOverNeighbours(float x, int lanes) {
  for (int step = lanes / 2; step > 0; step /= 2) {
    x += __shfl_xor_sync(0xffffffffU, x, step);
  }
  return x;
}

}  // namespace weir::engine
