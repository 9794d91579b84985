// SPDX-License-Identifier: Apache-2.0
//
// The inverse T of I + L, L strictly lower triangular, 64 by 64, by one
// warpgroup: blocks of 16 on the diagonal by forward substitution in fp32, the
// others by block diagonals from the main one,
//
//   T[i][j] = sum over m of Y[i][m] T[m][j],  Y = -T[i][i] L[i][m],  j <= m < i
//
// with operands of two fp16 each: of numbers that are at most 2. Powers of L,
// as a Neumann series has them, do not occur: equal keys would make them large
// before they cancel.
#pragma once

#include <cuda_fp16.h>

#include "engine/kernels/cuda/chunk_fragment.cuh"
#include "engine/kernels/cuda/chunk_shared.cuh"
#include "engine/kernels/cuda/chunk_tile.cuh"

namespace weir::engine {

// Numbers rounded to fp16, and what that rounded away.
using TwiceTile = uint8_t[2][kTileBytes];

// L in shared memory; a warp's block row is read by that warp alone.
struct LowerMatrix {
  TwiceTile below;            // the blocks below the diagonal's
  float diagonal[4][16][20];  // those, [column][row], and room between rows
};

__device__ inline void StoreTwice(
    TwiceTile& tile, int row, int column, float low, float high) {
  const uint32_t at = NumberOffset(row, column);
  const uint32_t number = Pack<Number::kHalf>(low, high);
  *reinterpret_cast<uint32_t*>(tile[0] + at) = number;
  *reinterpret_cast<uint32_t*>(tile[1] + at) =
      PackRest<Number::kHalf>(low, high, number);
}

// The block's left operand, or its right one.
__device__ inline void LoadLeft(const TwiceTile& tile,
                                int row,
                                int column,
                                Twice& to) {
  LoadBlocks(BlockAddress(SharedAddress(tile[0]), row, column), to.number);
  LoadBlocks(BlockAddress(SharedAddress(tile[1]), row, column), to.rest);
}
__device__ inline void LoadRight(const TwiceTile& tile,
                                 int row,
                                 int column,
                                 Twice& to) {
  LoadBlocksTransposed(BlockAddress(SharedAddress(tile[0]), row, column),
                       to.number);
  LoadBlocksTransposed(BlockAddress(SharedAddress(tile[1]), row, column),
                       to.rest);
}

// Writes T's diagonal block of this warp. A lane has a column, and takes what a
// row of it gives from all later rows at once; lanes of the second half have
// the same columns and write the rests.
__device__ inline void InvertDiagonal(const LowerMatrix& lower,
                                      int warp,
                                      TwiceTile& inverse) {
  const int lane = Lane();
  const int column = lane & 15;
  float x[16];
#pragma unroll
  for (int i = 0; i < 16; ++i) x[i] = i == column ? 1.0F : 0.0F;
#pragma unroll
  for (int j = 0; j < 15; ++j) {
#pragma unroll
    for (int i = (j + 1) / 4 * 4; i < 16; i += 4) {
      const float4 l =
          *reinterpret_cast<const float4*>(&lower.diagonal[warp][j][i]);
      if (i > j) x[i] -= l.x * x[j];
      if (i + 1 > j) x[i + 1] -= l.y * x[j];
      if (i + 2 > j) x[i + 2] -= l.z * x[j];
      x[i + 3] -= l.w * x[j];
    }
  }
  uint8_t* tile = inverse[lane / 16];
#pragma unroll
  for (int i = 0; i < 16; ++i) {
    const __half number = __float2half_rn(x[i]);
    const __half rest = __float2half_rn(x[i] - __half2float(number));
    *reinterpret_cast<__half*>(
        tile + NumberOffset(16 * warp + i, 16 * warp + column)) =
        lane < 16 ? number : rest;
  }
}

// Y of this warp's block row.
__device__ inline void SolveDiagonal(const LowerMatrix& lower,
                                     int warp,
                                     const TwiceTile& inverse,
                                     Twice (&y)[3]) {
  Twice diagonal;
  LoadLeft(inverse, warp, warp, diagonal);
#pragma unroll
  for (int m = 0; m < 3; ++m) {
    if (m >= warp) continue;
    Twice l;
    LoadRight(lower.below, warp, m, l);
    float sums[8] = {};
    MultiplyTwice(sums, diagonal, l);
#pragma unroll
    for (int i = 0; i < 8; ++i) sums[i] = -sums[i];
    RoundTwice(sums, y[m]);
  }
}

// Waits for the others of the one warpgroup that calls it.
__device__ inline void SyncWarpgroup() {
  asm volatile("bar.sync 1, %0;\n" ::"n"(kWarpgroup) : "memory");
}

// Writes T, but for the blocks above the diagonal. Called by a block's first
// warpgroup; warp w has block row w of L and T, and has written that of L. At
// each block diagonal all rows that reach it add what the one before has given
// them.
__device__ inline void InvertLower(const LowerMatrix& lower,
                                   int warp,
                                   TwiceTile& inverse) {
  const int lane = Lane();
  __syncwarp();
  InvertDiagonal(lower, warp, inverse);
  __syncwarp();
  Twice y[3];
  SolveDiagonal(lower, warp, inverse, y);
  float sums[3][8] = {};
#pragma unroll
  for (int below = 1; below < 4; ++below) {
    SyncWarpgroup();
#pragma unroll
    for (int column = 0; column + below < 4; ++column) {
      const int m = column + below - 1;
      if (warp <= m) continue;
      Twice t;
      LoadRight(inverse, m, column, t);
      MultiplyTwice(sums[column], y[m], t);
      if (warp != m + 1) continue;
#pragma unroll
      for (int i = 0; i < 8; i += 2) {
        StoreTwice(inverse,
                   16 * warp + lane / 4 + (i & 2) * 4,
                   16 * column + 2 * (lane & 3) + (i & 4) * 2,
                   sums[column][i],
                   sums[column][i + 1]);
      }
    }
  }
  SyncWarpgroup();
}

}  // namespace weir::engine
