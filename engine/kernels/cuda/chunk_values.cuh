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

__device__ inline void Unpack(const Fragment (&v)[4], float (&values)[32]) {
#pragma unroll
  for (int i = 0; i < 16; ++i) {
    values[2 * i] = Low(v[i / 4][i % 4]);
    values[2 * i + 1] = High(v[i / 4][i % 4]);
  }
}

// What Round left of the values, in place of what it gave.
__device__ inline void RoundRests(const float (&values)[32],
                                  Fragment (&rounded)[4]) {
#pragma unroll
  for (int i = 0; i < 16; ++i) {
    uint32_t& pair = rounded[i / 4][i % 4];
    pair = PackRest(values[2 * i], values[2 * i + 1], pair);
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

// U, from W in `writes` and v^T: there in full, in v and u_rest rounded.
__device__ inline void Solve(const uint8_t (*inverse)[kTileBytes],
                             const ChunkScales& scales,
                             float (&writes)[32],
                             Fragment (&v)[4],
                             Fragment (&u_rest)[4]) {
  const int lane = Lane();
#pragma unroll
  for (int j = 0; j < 4; ++j) {
    float* values = writes + 8 * j;
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      float* pair = values + 2 * i;
      const int token = 16 * j + i / 2 * 8 + 2 * (lane & 3);
      const float2 beta = *reinterpret_cast<const float2*>(&scales.beta[token]);
      const float2 decay =
          *reinterpret_cast<const float2*>(&scales.beta_from_start[token]);
      pair[0] = beta.x * Low(v[j][i]) - decay.x * pair[0];
      pair[1] = beta.y * High(v[j][i]) - decay.y * pair[1];
    }
    RoundTwice(values, v[j], u_rest[j]);
  }
  const uint64_t number = TileOperand(inverse[0]);
  const uint64_t rest = TileOperand(inverse[1]);
  BeginProducts();
#pragma unroll
  for (int j = 0; j < 4; ++j) {
    MultiplyAdd<false>(writes, v[j], rest + j * kColumns16, j > 0);
    MultiplyAdd<false>(writes, u_rest[j], number + j * kColumns16, true);
  }
#pragma unroll
  for (int j = 0; j < 4; ++j) {
    MultiplyAdd<false>(writes, v[j], number + j * kColumns16, true);
  }
  CommitProducts();
  WaitProducts<0>();
  Pin(writes);
#pragma unroll
  for (int j = 0; j < 4; ++j) RoundTwice(writes + 8 * j, v[j], u_rest[j]);
}

// sums += u scores^T.
__device__ inline void AddScores(const uint8_t* tile,
                                 const Fragment (&u)[4],
                                 float (&reads)[32]) {
  const uint64_t scores = TileOperand(tile);
#pragma unroll
  for (int j = 0; j < 4; ++j) {
    MultiplyAdd<false>(reads, u[j], scores + j * kColumns16, true);
  }
}

// sums (+)= s rows^T.
template <int kTiles>
__device__ inline void MultiplyState(const Fragment (&s)[kTiles][4],
                                     const uint8_t (*rows)[kTileBytes],
                                     bool add,
                                     float (&sums)[32]) {
#pragma unroll
  for (int i = 0; i < kTiles; ++i) {
#pragma unroll
    for (int j = 0; j < 4; ++j) {
      MultiplyAdd<false>(sums,
                         s[i][j],
                         TileOperand(rows[i]) + j * kColumns16,
                         add || i + j > 0);
    }
  }
  CommitProducts();
}

// s += w k, of the chunk's keys.
template <int kKeyTiles>
__device__ inline void AddToState(const uint8_t (&keys)[kKeyTiles][kTileBytes],
                                  const Fragment (&w)[4],
                                  float (&s)[kKeyTiles][32]) {
#pragma unroll
  for (int tile = 0; tile < kKeyTiles; ++tile) {
    const uint64_t k = TileOperand(keys[tile]);
#pragma unroll
    for (int j = 0; j < 4; ++j) {
      MultiplyAdd<true>(s[tile], w[j], k + j * kRows16, true);
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

// Writes the first `count` tokens of out from a tile that its warps have left
// there, each its 16 values of every token.
__device__ inline void WriteOut(const uint8_t* tile,
                                int warp,
                                int count,
                                __nv_bfloat16* out,
                                int64_t stride) {
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
