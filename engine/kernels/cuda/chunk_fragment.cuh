// SPDX-License-Identifier: Apache-2.0
//
// Pieces of matrices in a warp's registers: how they are read from and written
// to tiles (chunk_tile.cuh), rounded and multiplied by one warp.
//
// A warp's 16 by 16 block of sums is float[8]: lane l has rows l / 4 (numbers
// 0, 1, 4, 5) and l / 4 + 8 (2, 3, 6, 7), columns 2 (l % 4) and the next (0 to
// 3), and those plus 8 (4 to 7). Rounded in pairs it is the left operand.
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include <cstdint>

#include "engine/kernels/cuda/chunk_tile.cuh"

namespace weir::engine {

using Fragment = uint32_t[4];

template <Number kNumber>
__device__ inline uint32_t Pack(float low, float high) {
  if constexpr (kNumber == Number::kHalf) {
    const __half2 pair = __floats2half2_rn(low, high);
    return *reinterpret_cast<const uint32_t*>(&pair);
  } else {
    const __nv_bfloat162 pair = __floats2bfloat162_rn(low, high);
    return *reinterpret_cast<const uint32_t*>(&pair);
  }
}
template <Number kNumber>
__device__ inline float2 Unpack(uint32_t pair) {
  if constexpr (kNumber == Number::kHalf) {
    return __half22float2(*reinterpret_cast<const __half2*>(&pair));
  } else {
    return {__uint_as_float(pair << 16), __uint_as_float(pair & 0xffff0000U)};
  }
}
// What Pack rounded away.
template <Number kNumber>
__device__ inline uint32_t PackRest(float low, float high, uint32_t packed) {
  const float2 there = Unpack<kNumber>(packed);
  return Pack<kNumber>(low - there.x, high - there.y);
}

// 2^x, 0 below 2^-126.
__device__ inline float Exp2(float x) {
  float power;
  asm("ex2.approx.ftz.f32 %0, %1;\n" : "=f"(power) : "f"(x));
  return power;
}

// Number i of Fragment holds numbers 2 i and 2 i + 1 of the sums.
template <Number kNumber>
__device__ inline void Round(const float* sums, Fragment& to) {
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    to[i] = Pack<kNumber>(sums[2 * i], sums[2 * i + 1]);
  }
}

// Four blocks of 8 by 8, each lane giving one row's address; lane l has columns
// 2 (l % 4), + 1 of row l / 4, transposed of column l / 4.
__device__ inline void LoadBlocks(uint32_t address, Fragment& to) {
  asm volatile(
      "ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];\n"
      : "=r"(to[0]), "=r"(to[1]), "=r"(to[2]), "=r"(to[3])
      : "r"(address)
      : "memory");
}
__device__ inline void LoadBlocksTransposed(uint32_t address, Fragment& to) {
  asm volatile(
      "ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, "
      "[%4];\n"
      : "=r"(to[0]), "=r"(to[1]), "=r"(to[2]), "=r"(to[3])
      : "r"(address)
      : "memory");
}
// The low half of x.
__device__ inline void StoreHalfWord(uint32_t address, uint32_t x) {
  asm volatile("st.shared.u16 [%0], %1;\n" ::"r"(address),
               "h"(static_cast<uint16_t>(x))
               : "memory");
}
__device__ inline void StoreBlocksTransposed(uint32_t address,
                                             const Fragment& from) {
#ifdef __CUDA_ARCH_FEAT_SM90_ALL
  asm volatile(
      "stmatrix.sync.aligned.m8n8.x4.trans.shared.b16 [%0], {%1, %2, %3, "
      "%4};\n" ::"r"(address),
      "r"(from[0]),
      "r"(from[1]),
      "r"(from[2]),
      "r"(from[3])
      : "memory");
#else
  const int lane = Lane();
#pragma unroll
  for (int i = 0; i < 8; ++i) {
    const int row = i / 2 * 8 + 2 * (lane & 3) + i % 2;
    const uint32_t to = __shfl_sync(0xffffffffU, address, row);
    StoreHalfWord(to + 2 * (lane / 4), from[i / 2] >> 16 * (i % 2));
  }
#endif
}

// Lane's address for the 16 by 16 block (row block, column block) of a tile:
// loaded it is a left operand, loaded transposed a right one.
__device__ inline uint32_t BlockAddress(uint32_t tile, int row, int column) {
  const int lane = Lane();
  return tile + PieceOffset(16 * row + (lane & 15), 2 * column + (lane >> 4));
}
// Likewise where the tile's rows are the sums' columns: loaded or stored
// transposed it is a Fragment of the sums.
__device__ inline uint32_t TurnedAddress(uint32_t tile, int row, int column) {
  const int lane = Lane();
  return tile + PieceOffset(16 * column + (lane >> 4) * 8 + (lane & 7),
                            2 * row + (lane >> 3 & 1));
}

// sums += a b of fp16, 16 by 16 and 16 by 8.
__device__ inline void MultiplyHalf(float* sums,
                                    const Fragment& a,
                                    uint32_t b,
                                    uint32_t b_8_rows_on) {
  asm volatile(
      "mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 "
      "{%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};\n"
      : "+f"(sums[0]), "+f"(sums[1]), "+f"(sums[2]), "+f"(sums[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b), "r"(b_8_rows_on));
}
// The same of bf16.
__device__ inline void MultiplyBfloat(float* sums,
                                      const Fragment& a,
                                      uint32_t b,
                                      uint32_t b_8_rows_on) {
  asm volatile(
      "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 "
      "{%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};\n"
      : "+f"(sums[0]), "+f"(sums[1]), "+f"(sums[2]), "+f"(sums[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b), "r"(b_8_rows_on));
}
__device__ inline void MultiplyBlocks(float (&sums)[8],
                                      const Fragment& a,
                                      const Fragment& b) {
  MultiplyHalf(sums, a, b[0], b[1]);
  MultiplyHalf(sums + 4, a, b[2], b[3]);
}

// A matrix rounded to fp16, and what that rounded away.
struct Twice {
  Fragment number;
  Fragment rest;
};
__device__ inline void RoundTwice(const float* sums, Twice& to) {
  Round<Number::kHalf>(sums, to.number);
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    to.rest[i] =
        PackRest<Number::kHalf>(sums[2 * i], sums[2 * i + 1], to.number[i]);
  }
}

// sums += a b to about 22 bits: the product of the rests is left out.
__device__ inline void MultiplyTwice(float (&sums)[8],
                                     const Twice& a,
                                     const Twice& b) {
  MultiplyBlocks(sums, a.rest, b.number);
  MultiplyBlocks(sums, a.number, b.rest);
  MultiplyBlocks(sums, a.number, b.number);
}

}  // namespace weir::engine
