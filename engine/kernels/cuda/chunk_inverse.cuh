// SPDX-License-Identifier: Apache-2.0
//
// The inverse T of I + L, L strictly lower triangular, 64 by 64, by one
// warpgroup: blocks of 16 on the diagonal by forward substitution in fp32, the
// others by block rows from the top,
//
//   T[i][j] = sum over m of Y[i][m] T[m][j],  Y = -T[i][i] L[i][m],  j <= m < i
//
// with operands of two bf16 each. Powers of L, as a Neumann series has them,
// do not occur: equal keys would make them large before they cancel.
#pragma once

#include <cuda_bf16.h>

#include "engine/kernels/cuda/chunk_fragment.cuh"
#include "engine/kernels/cuda/chunk_wgmma.cuh"

namespace weir::engine {

// Two tiles: numbers rounded to bf16, and what that rounded away.
struct TwiceTile {
  uint8_t number[kTileBytes];
  uint8_t rest[kTileBytes];
};

// L in shared memory. Its diagonal blocks are read by their own warp alone.
struct LowerMatrix {
  TwiceTile below;              // the blocks below the diagonal's
  float diagonal[4][16][20];    // with room that keeps rows off one bank
};

__device__ inline void StoreTwice(TwiceTile& tile,
                                  int row,
                                  int column,
                                  float low,
                                  float high) {
  const uint32_t at = NumberOffset(row, column);
  const uint32_t number = Pack(low, high);
  *reinterpret_cast<uint32_t*>(tile.number + at) = number;
  *reinterpret_cast<uint32_t*>(tile.rest + at) = PackRest(low, high, number);
}

// The block's left operand, or its right one.
__device__ inline void LoadLeft(const TwiceTile& tile,
                                int row,
                                int column,
                                Twice& to) {
  LoadBlocks(BlockAddress(SharedAddress(tile.number), row, column), to.number);
  LoadBlocks(BlockAddress(SharedAddress(tile.rest), row, column), to.rest);
}
__device__ inline void LoadRight(const TwiceTile& tile,
                                 int row,
                                 int column,
                                 Twice& to) {
  LoadBlocksTransposed(BlockAddress(SharedAddress(tile.number), row, column),
                       to.number);
  LoadBlocksTransposed(BlockAddress(SharedAddress(tile.rest), row, column),
                       to.rest);
}

// Writes T's diagonal block of this warp. A lane has a column; lanes of the
// second half have the same columns and write the rests.
__device__ inline void InvertDiagonal(const LowerMatrix& lower,
                                      int warp,
                                      TwiceTile& inverse) {
  const int lane = static_cast<int>(threadIdx.x) & 31;
  const int column = lane & 15;
  float x[16];
#pragma unroll
  for (int i = 0; i < 16; ++i) {
    float sums[4] = {i == column ? 1.0F : 0.0F, 0.0F, 0.0F, 0.0F};
#pragma unroll
    for (int j = 0; j < i; j += 4) {
      const float4 l =
          *reinterpret_cast<const float4*>(&lower.diagonal[warp][i][j]);
      sums[0] -= l.x * x[j];
      if (j + 1 < i) sums[1] -= l.y * x[j + 1];
      if (j + 2 < i) sums[2] -= l.z * x[j + 2];
      if (j + 3 < i) sums[3] -= l.w * x[j + 3];
    }
    x[i] = (sums[0] + sums[1]) + (sums[2] + sums[3]);
  }
  uint8_t* tile = lane < 16 ? inverse.number : inverse.rest;
#pragma unroll
  for (int i = 0; i < 16; ++i) {
    const __nv_bfloat16 number = __float2bfloat16_rn(x[i]);
    const __nv_bfloat16 rest =
        __float2bfloat16_rn(x[i] - __bfloat162float(number));
    *reinterpret_cast<__nv_bfloat16*>(
        tile + NumberOffset(16 * warp + i, 16 * warp + column)) =
        lane < 16 ? number : rest;
  }
}

// Called by a warpgroup whose named barrier is `barrier`; warp w has block row
// w. Reads what the others have written of L only after that barrier.
__device__ inline void InvertLower(const LowerMatrix& lower,
                                   int warp,
                                   int barrier,
                                   TwiceTile& inverse) {
  const int lane = static_cast<int>(threadIdx.x) & 31;
  __syncwarp();
  InvertDiagonal(lower, warp, inverse);
  __syncwarp();
  Twice y[3];
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
    RoundTwice(sums, y[m].number, y[m].rest);
  }
#pragma unroll
  for (int row = 1; row < 4; ++row) {
    SyncWarpgroup(barrier);
    if (row != warp) continue;
#pragma unroll
    for (int column = 0; column < row; ++column) {
      float sums[8] = {};
#pragma unroll
      for (int m = column; m < row; ++m) {
        Twice t;
        LoadRight(inverse, m, column, t);
        MultiplyTwice(sums, y[m], t);
      }
#pragma unroll
      for (int i = 0; i < 8; i += 2) {
        StoreTwice(inverse,
                   16 * row + lane / 4 + (i & 2) * 4,
                   16 * column + 2 * (lane & 3) + (i & 4) * 2,
                   sums[i],
                   sums[i + 1]);
      }
    }
  }
}

}  // namespace weir::engine
