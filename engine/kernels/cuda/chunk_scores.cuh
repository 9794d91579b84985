// SPDX-License-Identifier: Apache-2.0
//
// What a chunk's decays, queries and keys give: scales and scores.
#pragma once

#include <cuda_bf16.h>

#include "engine/kernels/cuda/chunk_fragment.cuh"
#include "engine/kernels/cuda/chunk_multiply.cuh"
#include "engine/kernels/cuda/chunk_shared.cuh"

namespace weir::engine {

// Sums of log2 decays; lane l has those up to tokens 2 l and 2 l + 1.
__device__ inline float2 SumDecays(const float* log2_decay) {
  constexpr unsigned kAll = 0xffffffffU;
  // Less than 2^-200 is 0 to every state; and infinities have no differences.
  constexpr float kLeast = -200.0F;
  const int lane = Lane();
  float2 x = *reinterpret_cast<const float2*>(log2_decay + 2 * lane);
  if (x.x < kLeast) x.x = kLeast;
  if (x.y < kLeast) x.y = kLeast;
  const float pair = x.x + x.y;
  float sum = pair;
#pragma unroll
  for (int step = 1; step < 32; step *= 2) {
    const float before = __shfl_up_sync(kAll, sum, step);
    if (lane >= step) sum += before;
  }
  return {sum - x.y, sum};
}

// A warp writes one of the scales; those with beta if there is one.
__device__ inline void WriteScales(float2 sums,
                                   const float* beta,
                                   int warp,
                                   ChunkScales& scales) {
  const int token = 2 * Lane();
  const float last = __shfl_sync(0xffffffffU, sums.y, 31);
  const auto write = [&](float* to, float first, float second) {
    *reinterpret_cast<float2*>(to + token) = float2{first, second};
  };
  if (warp == 0) write(scales.from_start, Exp2(sums.x), Exp2(sums.y));
  const float2 to_end = {Exp2(last - sums.x), Exp2(last - sums.y)};
  if (beta == nullptr) {
    if (warp == 1) write(scales.to_end, to_end.x, to_end.y);
    return;
  }
  if (warp == 1) {
    *reinterpret_cast<uint32_t*>(&scales.to_end_half[token]) =
        Pack<Number::kHalf>(to_end.x, to_end.y);
  }
  float2 x = *reinterpret_cast<const float2*>(beta + token);
  x.x /= kKeyScale;
  x.y /= kKeyScale;
  if (warp == 2) write(scales.beta, x.x, x.y);
  if (warp == 3) {
    write(scales.beta_from_start,
          x.x * Exp2(sums.x) / kKeyScale,
          x.y * Exp2(sums.y) / kKeyScale);
  }
}

// Calls visit(n, i, j, factor, factor_2) for the pairs of numbers of a 16 by 16
// block of sums (chunk_fragment.cuh) in the warp's block row: numbers n and
// n + 1, of row i and columns j, j + 1, with factors 2^(g_i - g_j), which are
// of use where j <= i.
template <typename Visit>
__device__ inline void VisitBlock(float2 sums,
                                  int warp,
                                  int block,
                                  Visit visit) {
  constexpr unsigned kAll = 0xffffffffU;
  const int lane = Lane();
  const int row = 16 * warp + lane / 4;  // and row + 8
  float of_row[2];
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    const float even = __shfl_sync(kAll, sums.x, row / 2 + 4 * half);
    const float odd = __shfl_sync(kAll, sums.y, row / 2 + 4 * half);
    of_row[half] = row & 1 ? odd : even;
  }
#pragma unroll
  for (int right = 0; right < 2; ++right) {
    const int column = 16 * block + 8 * right + 2 * (lane & 3);
    const float first = __shfl_sync(kAll, sums.x, column / 2);
    const float second = __shfl_sync(kAll, sums.y, column / 2);
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      visit(4 * right + 2 * half,
            row + 8 * half,
            column,
            Exp2(of_row[half] - first),
            Exp2(of_row[half] - second));
    }
  }
}

// Puts the products of every two rows of a chunk's tiles, queries or keys, with
// keys under way.
template <int kKeyTiles>
__device__ inline void MultiplyTokens(const KeyTile (&tiles)[kKeyTiles],
                                      uint8_t (KeyTile::*rows)[kTileBytes],
                                      float (&sums)[32]) {
#pragma unroll
  for (int step = 0; step < 4 * kKeyTiles; ++step) {
    const KeyTile& tile = tiles[step / 4];
    MultiplyAddTiles<Number::kBfloat>(
        sums,
        TileOperand(tile.*rows) + step % 4 * kColumns16,
        TileOperand(tile.k) + step % 4 * kColumns16,
        step > 0);
  }
}

// Writes the scores of the warp's block row, from its products, times `scale`.
template <Number kNumber>
__device__ inline void WriteScores(const float (&products)[32],
                                   float2 sums,
                                   int warp,
                                   float scale,
                                   uint8_t* scores) {
#pragma unroll
  for (int block = 0; block < 4; ++block) {
    if (block > warp) continue;
    const float* p = products + 8 * block;
    VisitBlock(sums, warp, block, [&](int n, int i, int j, float f, float f_2) {
      *reinterpret_cast<uint32_t*>(scores + NumberOffset(i, j)) =
          Pack<kNumber>(j <= i ? scale * f * p[n] : 0.0F,
                        j + 1 <= i ? scale * f_2 * p[n + 1] : 0.0F);
    });
  }
}

}  // namespace weir::engine
