// SPDX-License-Identifier: Apache-2.0
//
// What a warpgroup does to 64 values of a chunk's tokens in registers:
// float[32], four blocks of sums (chunk_fragment.cuh), or the same rounded,
// Fragment[4].
#pragma once

#include <cuda_bf16.h>

#include "engine/kernels/cuda/chunk_fragment.cuh"
#include "engine/kernels/cuda/chunk_shared.cuh"
#include "engine/kernels/cuda/chunk_wgmma.cuh"

namespace weir::engine {

// 64 values of a chunk's tokens from their tile, whose rows are tokens.
__device__ inline void LoadValues(const uint8_t* tile,
                                  int warp,
                                  Fragment (&v)[4]) {
#pragma unroll
  for (int j = 0; j < 4; ++j) {
    LoadBlocksTransposed(TurnedAddress(SharedAddress(tile), warp, j), v[j]);
  }
}

// values, 16 tokens of them, by a factor a token.
__device__ inline void Scale(const float* factors, int j, float* values) {
  const int lane = Lane();
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    const float2 factor = *reinterpret_cast<const float2*>(
        &factors[16 * j + 8 * half + 2 * (lane & 3)]);
#pragma unroll
    for (int i = 4 * half; i < 4 * half + 4; i += 2) {
      values[i] *= factor.x;
      values[i + 1] *= factor.y;
    }
  }
}

// sums += u scores^T.
template <Number kNumber>
__device__ inline void AddScores(const uint8_t* tile,
                                 const Fragment (&u)[4],
                                 float (&reads)[32]) {
  const uint64_t scores = TileOperand(tile);
#pragma unroll
  for (int j = 0; j < 4; ++j) {
    MultiplyAdd<kNumber, false>(reads, u[j], scores + j * kColumns16, true);
  }
}

// sums (+)= s rows^T.
template <Number kNumber, int kTiles>
__device__ inline void MultiplyState(const Fragment (&s)[kTiles][4],
                                     const uint8_t (*rows)[kTileBytes],
                                     bool add,
                                     float (&sums)[32]) {
#pragma unroll
  for (int i = 0; i < kTiles; ++i) {
#pragma unroll
    for (int j = 0; j < 4; ++j) {
      MultiplyAdd<kNumber, false>(sums,
                                  s[i][j],
                                  TileOperand(rows[i]) + j * kColumns16,
                                  add || i + j > 0);
    }
  }
}

// s += w k, of the chunk's keys.
template <Number kNumber, int kKeyTiles>
__device__ inline void AddToState(const uint8_t (&keys)[kKeyTiles][kTileBytes],
                                  const Fragment (&w)[4],
                                  float (&s)[kKeyTiles][32]) {
#pragma unroll
  for (int tile = 0; tile < kKeyTiles; ++tile) {
    const uint64_t k = TileOperand(keys[tile]);
#pragma unroll
    for (int j = 0; j < 4; ++j) {
      MultiplyAdd<kNumber, true>(s[tile], w[j], k + j * kRows16, true);
    }
  }
}

// Waits for products that add to these.
template <int kKeyTiles>
__device__ inline void EndProducts(float (&reads)[32],
                                   float (&s)[kKeyTiles][32]) {
  CommitProducts();
  WaitProducts<0>();
  Pin(reads);
#pragma unroll
  for (int tile = 0; tile < kKeyTiles; ++tile) Pin(s[tile]);
}

// Writes the first `count` tokens of out, times `scale`, by way of a tile that
// nothing else is read from any more; each warp has 16 values of every token.
__device__ inline void WriteOut(float (&sums)[32],
                                float scale,
                                uint8_t* tile,
                                int warp,
                                int count,
                                __nv_bfloat16* out,
                                int64_t stride) {
#pragma unroll
  for (int j = 0; j < 4; ++j) {
    Fragment x;
#pragma unroll
    for (int i = 8 * j; i < 8 * j + 8; ++i) sums[i] *= scale;
    Round<Number::kBfloat>(sums + 8 * j, x);
    StoreBlocksTransposed(TurnedAddress(SharedAddress(tile), warp, j), x);
  }
  __syncwarp();
  const int lane = Lane();
  const int piece = 2 * warp + (lane & 1);
  __nv_bfloat16* to = out + lane / 2 * stride + 8 * piece;
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    const int token = lane / 2 + 16 * i;
    const uint4 x =
        *reinterpret_cast<const uint4*>(tile + PieceOffset(token, piece));
    if (token < count) *reinterpret_cast<uint4*>(to + 16 * i * stride) = x;
  }
}

}  // namespace weir::engine
