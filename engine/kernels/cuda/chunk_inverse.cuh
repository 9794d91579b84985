// SPDX-License-Identifier: Apache-2.0
//
// The inverse T of I + L, L strictly lower triangular, 64 by 64, by one
// warpgroup in fp32: blocks of 16 on the diagonal by forward substitution, the
// others by block diagonals from the main one,
//
//   T[i][j] = sum over m of Y[i][m] T[m][j],  Y = -T[i][i] L[i][m],  j <= m < i
//
// Powers of L, as a Neumann series has them, do not occur: equal keys would make
// them large before they cancel.
#pragma once

#include <cuda_bf16.h>

#include "engine/kernels/cuda/chunk_fragment.cuh"
#include "engine/kernels/cuda/chunk_shared.cuh"
#include "engine/kernels/cuda/chunk_wgmma.cuh"

namespace weir::engine {

// L, and what becomes of it.
struct LowerMatrix {
  // L's blocks below the diagonal, which become Y; T's diagonal ones; and above
  // the diagonal T[i][j] as block (j, i). Rows have room to lie on other banks.
  float blocks[64][68];
  float diagonal[4][16][20];  // L's diagonal blocks, [column][row]
};

// Writes T's diagonal block of this warp. A lane has a column, and takes what a
// row of it gives from all later rows at once; lanes of the second half have
// the same columns and write the rests.
__device__ inline void InvertDiagonal(int warp,
                                      LowerMatrix& lower,
                                      uint8_t (*inverse)[kTileBytes]) {
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
  uint8_t* tile = lane < 16 ? inverse[0] : inverse[1];
#pragma unroll
  for (int i = 0; i < 16; ++i) {
    const __nv_bfloat16 number = __float2bfloat16_rn(x[i]);
    const __nv_bfloat16 rest =
        __float2bfloat16_rn(x[i] - __bfloat162float(number));
    *reinterpret_cast<__nv_bfloat16*>(
        tile + NumberOffset(16 * warp + i, 16 * warp + column)) =
        lane < 16 ? number : rest;
    if (lane < 16) lower.blocks[16 * warp + i][16 * warp + column] = x[i];
  }
}

// sums += a row of a block times four columns of another.
__device__ inline void AddProduct(const float* row,
                                  const float (*columns)[68],
                                  float4& sums) {
#pragma unroll
  for (int k = 0; k < 16; k += 4) {
    const float4 a = *reinterpret_cast<const float4*>(row + k);
    const float factors[4] = {a.x, a.y, a.z, a.w};
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const float4 b = *reinterpret_cast<const float4*>(columns[k + i]);
      sums.x += factors[i] * b.x;
      sums.y += factors[i] * b.y;
      sums.z += factors[i] * b.z;
      sums.w += factors[i] * b.w;
    }
  }
}

// A half block's columns [8 half, 8 half + 8): four of them, from the returned
// one on, and row lane / 2 are this lane's.
__device__ inline int FirstColumn(int half, int lane) {
  return 8 * half + 4 * (lane & 1);
}

// Y of half blocks `warp`, warp + 4, ... of the six below the diagonal.
__device__ inline void SolveDiagonals(int warp, LowerMatrix& lower) {
  const int lane = Lane();
#pragma unroll 1
  for (int half = warp; half < 12; half += 4) {
    const int at = half / 2;
    const int i = at < 1 ? 1 : at < 3 ? 2 : 3;
    const int m = at - i * (i - 1) / 2;
    const int column = 16 * m + FirstColumn(half & 1, lane);
    float4 sums = {0.0F, 0.0F, 0.0F, 0.0F};
    AddProduct(&lower.blocks[16 * i + lane / 2][16 * i],
               reinterpret_cast<const float (*)[68]>(
                   &lower.blocks[16 * i][column]),
               sums);
    __syncwarp();
    *reinterpret_cast<float4*>(&lower.blocks[16 * i + lane / 2][column]) = {
        -sums.x, -sums.y, -sums.z, -sums.w};
  }
}

// T's blocks (j + below, j), of half blocks `warp`, warp + 4, ...
__device__ inline void InvertBelow(int warp,
                                   int below,
                                   LowerMatrix& lower,
                                   uint8_t (*inverse)[kTileBytes]) {
  const int lane = Lane();
#pragma unroll 1
  for (int half = warp; half < 2 * (4 - below); half += 4) {
    const int j = half / 2;
    const int i = j + below;
    const int row = lane / 2;
    const int column = FirstColumn(half & 1, lane);
    float4 sums = {0.0F, 0.0F, 0.0F, 0.0F};
#pragma unroll 1
    for (int m = j; m < i; ++m) {
      AddProduct(&lower.blocks[16 * i + row][16 * m],
                 reinterpret_cast<const float (*)[68]>(
                     &lower.blocks[16 * j][16 * m + column]),
                 sums);
    }
    *reinterpret_cast<float4*>(
        &lower.blocks[16 * j + row][16 * i + column]) = sums;
    const uint32_t to = NumberOffset(16 * i + row, 16 * j + column);
    const uint2 number = {Pack(sums.x, sums.y), Pack(sums.z, sums.w)};
    *reinterpret_cast<uint2*>(inverse[0] + to) = number;
    *reinterpret_cast<uint2*>(inverse[1] + to) = {
        PackRest(sums.x, sums.y, number.x), PackRest(sums.z, sums.w, number.y)};
  }
}

// Writes T rounded to the first tile and what that rounded away to the second;
// not the blocks above the diagonal.
//
// Called by a warpgroup whose named barrier is `barrier`, warp w of which has
// written L's block row w. At its end L may be written anew.
__device__ inline void InvertLower(int warp,
                                   int barrier,
                                   LowerMatrix& lower,
                                   uint8_t (*inverse)[kTileBytes]) {
  __syncwarp();
  InvertDiagonal(warp, lower, inverse);
  SyncWarpgroup(barrier);
  SolveDiagonals(warp, lower);
#pragma unroll 1
  for (int below = 1; below < 4; ++below) {
    SyncWarpgroup(barrier);
    InvertBelow(warp, below, lower, inverse);
  }
  SyncWarpgroup(barrier);
}

}  // namespace weir::engine
