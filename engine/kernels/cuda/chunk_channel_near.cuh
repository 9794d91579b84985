// SPDX-License-Identifier: Apache-2.0
//
// The products of chunk_channel_blocks.cuh within blocks of 4 tokens, in fp32:
// a lane has some channels of all ten pairs.
#pragma once

#include "engine/kernels/cuda/chunk_channel_blocks.cuh"
#include "engine/kernels/cuda/chunk_fragment.cuh"
#include "engine/kernels/cuda/chunk_shared.cuh"

namespace weir::engine {

// Halves the numbers a lane has, of twice kCount, with its partner's: a lane
// whose number has that bit goes on with the upper ones.
template <int kCount>
__device__ inline void FoldLanes(float (&x)[16]) {
  const bool upper = (Lane() & 2 * kCount) != 0;
#pragma unroll
  for (int i = 0; i < kCount; ++i) {
    const float low = x[i];
    const float high = x[i + kCount];
    const float other =
        __shfl_xor_sync(0xffffffffU, upper ? low : high, 2 * kCount);
    x[i] = (upper ? high : low) + other;
  }
}
// Sums of 16 numbers a lane over a warp: lane l has that of number l / 2.
__device__ inline float SumLanes(float (&x)[16]) {
  FoldLanes<8>(x);
  FoldLanes<4>(x);
  FoldLanes<2>(x);
  FoldLanes<1>(x);
  return x[0] + __shfl_xor_sync(0xffffffffU, x[0], 1);
}

// Where the product of row i and token j <= i of a block of 4 lies among its
// ten.
__host__ __device__ constexpr int NearIndex(int i, int j) {
  return i * (i + 1) / 2 + j;
}

// The products within the four blocks of 4 of a warp's rows.
template <int kKeyTiles>
__device__ inline void MultiplyNear(const KeyTile (&tiles)[kKeyTiles],
                                    uint8_t (KeyTile::*rows)[kTileBytes],
                                    const ChannelSums<kKeyTiles>& sums,
                                    int block,
                                    float scale,
                                    float (&to)[4][16]) {
  const int lane = Lane();
#pragma unroll 1
  for (int four = 0; four < 4; ++four) {
    float parts[16] = {};
#pragma unroll
    for (int tile = 0; tile < kKeyTiles; ++tile) {
      float2 x[4];
      float2 k[4];
      float2 g[4];
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        const int token = 16 * block + 4 * four + i;
        const uint32_t at = NumberOffset(token, 2 * lane);
        x[i] = Unpack<Number::kBfloat>(
            *reinterpret_cast<const uint32_t*>(tiles[tile].*rows + at));
        k[i] = Unpack<Number::kBfloat>(
            *reinterpret_cast<const uint32_t*>(tiles[tile].k + at));
        g[i] = *reinterpret_cast<const float2*>(
            &sums.g[token][64 * tile + 2 * lane]);
      }
#pragma unroll
      for (int i = 0; i < 4; ++i) {
#pragma unroll
        for (int j = 0; j <= i; ++j) {
          float& part = parts[NearIndex(i, j)];
          if (i == j) {
            part += x[i].x * k[i].x + x[i].y * k[i].y;
          } else {
            part += x[i].x * (k[j].x * Exp2(g[i].x - g[j].x));
            part += x[i].y * (k[j].y * Exp2(g[i].y - g[j].y));
          }
        }
      }
    }
    const float sum = SumLanes(parts);
    if ((lane & 1) == 0) to[four][lane / 2] = scale * sum;
  }
  __syncwarp();
}

}  // namespace weir::engine
