// SPDX-License-Identifier: Apache-2.0
//
// Four numbers of a state at a time, as floats: 16 bytes, or 8 of bf16, which
// are rounded by chance on the way back.
//
// Threads: plain functions.
#pragma once

#include <cuda_bf16.h>

#include <cstdint>

#include "engine/kernels/cuda/rounding.cuh"

namespace weir::engine {

__device__ inline void LoadFour(const float* p, float (&to)[4]) {
  const float4 x = *reinterpret_cast<const float4*>(p);
  to[0] = x.x;
  to[1] = x.y;
  to[2] = x.z;
  to[3] = x.w;
}
__device__ inline void LoadFour(const __nv_bfloat16* p, float (&to)[4]) {
  const uint2 x = *reinterpret_cast<const uint2*>(p);
  to[0] = __uint_as_float(x.x << 16);
  to[1] = __uint_as_float(x.x & 0xffff0000U);
  to[2] = __uint_as_float(x.y << 16);
  to[3] = __uint_as_float(x.y & 0xffff0000U);
}

// `index` is that of the first number among the key's.
__device__ inline void StoreFour(float* p,
                                 const float (&x)[4],
                                 const RoundingKey&,
                                 uint32_t) {
  *reinterpret_cast<float4*>(p) = make_float4(x[0], x[1], x[2], x[3]);
}
__device__ inline void StoreFour(__nv_bfloat16* p,
                                 const float (&x)[4],
                                 const RoundingKey& key,
                                 uint32_t index) {
  uint32_t words[2];
#pragma unroll
  for (int i = 0; i < 2; ++i) {
    const uint32_t chance = key.Bits(index + 2 * i);
    words[i] = RoundByChance(x[2 * i], chance & 0xffffU) |
               RoundByChance(x[2 * i + 1], chance >> 16) << 16;
  }
  *reinterpret_cast<uint2*>(p) = make_uint2(words[0], words[1]);
}

}  // namespace weir::engine
