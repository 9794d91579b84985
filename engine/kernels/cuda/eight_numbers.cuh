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

// Held as the words that were read: as single numbers they would be taken apart
// where they are loaded, and the load waited for there.
template <typename Number>
struct alignas(16) EightNumbers {
  static constexpr int kWords = kEight * static_cast<int>(sizeof(Number)) / 4;
  static constexpr bool kIsFloat = sizeof(Number) == 4;

  uint32_t words[kWords];

  template <bool kAligned>
  __device__ static EightNumbers Load(const Number* from) {
    EightNumbers eight;
    if constexpr (kAligned) {
#pragma unroll
      for (int i = 0; i < kWords / 4; ++i) {
        const uint4 piece = reinterpret_cast<const uint4*>(from)[i];
        eight.words[4 * i] = piece.x;
        eight.words[4 * i + 1] = piece.y;
        eight.words[4 * i + 2] = piece.z;
        eight.words[4 * i + 3] = piece.w;
      }
    } else {
#pragma unroll
      for (int i = 0; i < kWords; ++i) {
        if constexpr (kIsFloat) {
          eight.words[i] = __float_as_uint(from[i]);
        } else {
          eight.words[i] = uint32_t{__bfloat16_as_ushort(from[2 * i])} |
                           uint32_t{__bfloat16_as_ushort(from[2 * i + 1])}
                               << 16;
        }
      }
    }
    return eight;
  }

  template <bool kAligned>
  __device__ void Store(Number* to) const {
    if constexpr (kAligned) {
#pragma unroll
      for (int i = 0; i < kWords / 4; ++i) {
        reinterpret_cast<uint4*>(to)[i] = make_uint4(
            words[4 * i], words[4 * i + 1], words[4 * i + 2], words[4 * i + 3]);
      }
    } else {
#pragma unroll
      for (int i = 0; i < kWords; ++i) {
        if constexpr (kIsFloat) {
          to[i] = __uint_as_float(words[i]);
        } else {
          to[2 * i] = __ushort_as_bfloat16(words[i] & 0xffffU);
          to[2 * i + 1] = __ushort_as_bfloat16(words[i] >> 16);
        }
      }
    }
  }

  __device__ void To(float (&x)[kEight]) const {
#pragma unroll
    for (int i = 0; i < kWords; ++i) {
      if constexpr (kIsFloat) {
        x[i] = __uint_as_float(words[i]);
      } else {
        x[2 * i] = __uint_as_float(words[i] << 16);
        x[2 * i + 1] = __uint_as_float(words[i] & 0xffff0000U);
      }
    }
  }
  // To the nearest.
  __device__ static EightNumbers Of(const float (&x)[kEight]) {
    EightNumbers eight;
#pragma unroll
    for (int i = 0; i < kWords; ++i) {
      if constexpr (kIsFloat) {
        eight.words[i] = __float_as_uint(x[i]);
      } else {
        const __nv_bfloat162 two =
            __floats2bfloat162_rn(x[2 * i], x[2 * i + 1]);
        eight.words[i] = *reinterpret_cast<const uint32_t*>(&two);
      }
    }
    return eight;
  }
};

// Over `lanes` neighbouring lanes, a power of two that is the same in all of a
// warp, whose lanes all call.
__device__ inline float SumOverNeighbours(float x, int lanes) {
#pragma unroll
  for (int step = 16; step > 0; step /= 2) {
    const float other = __shfl_xor_sync(0xffffffffU, x, step);
    x += step < lanes ? other : 0.0F;
  }
  return x;
}

}  // namespace weir::engine
