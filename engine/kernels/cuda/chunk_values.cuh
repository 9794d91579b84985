// SPDX-License-Identifier: Apache-2.0
//
// What a warpgroup does to 64 values of a chunk's tokens in registers:
// float[32], four blocks of sums (chunk_fragment.cuh), or the same rounded,
// Fragment[4].
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include "engine/kernels/cuda/chunk_fragment.cuh"
#include "engine/kernels/cuda/chunk_multiply.cuh"
#include "engine/kernels/cuda/chunk_shared.cuh"

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

// R from W in `values` and v^T in `r`, v times `scale`: there in full and
// rounded. All bits of what is rounded.
template <typename Scales>
__device__ inline uint32_t SubtractReads(const Scales& scales,
                                         float scale,
                                         float (&values)[32],
                                         Fragment (&r)[4]) {
  const int lane = Lane();
  uint32_t bits = 0;
#pragma unroll
  for (int j = 0; j < 4; ++j) {
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      float* pair = values + 8 * j + 2 * i;
      const int token = 16 * j + i / 2 * 8 + 2 * (lane & 3);
      const float2 beta = *reinterpret_cast<const float2*>(&scales.beta[token]);
      const float2 decay =
          *reinterpret_cast<const float2*>(&scales.beta_from_start[token]);
      const float2 v = Unpack<Number::kBfloat>(r[j][i]);
      pair[0] = beta.x * scale * v.x - decay.x * pair[0];
      pair[1] = beta.y * scale * v.y - decay.y * pair[1];
    }
    Round<Number::kHalf>(values + 8 * j, r[j]);
#pragma unroll
    for (int i = 0; i < 4; ++i) bits |= r[j][i];
  }
  return bits;
}

// U with its decay to the chunk's end.
__device__ inline void MakeWrites(const ChunkScales& scales,
                                  const Fragment (&u)[4],
                                  Fragment (&w)[4]) {
  const int lane = Lane();
#pragma unroll
  for (int i = 0; i < 16; i += 2) {
    const __half2 factor = *reinterpret_cast<const __half2*>(
        &scales.to_end_half[4 * i + 2 * (lane & 3)]);
#pragma unroll
    for (int j = i; j < i + 2; ++j) {
      const __half2 x =
          __hmul2(*reinterpret_cast<const __half2*>(&u[j / 4][j % 4]), factor);
      w[j / 4][j % 4] = *reinterpret_cast<const uint32_t*>(&x);
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

// s += w k, of a chunk's keys, whose tiles are kApart bytes apart.
template <Number kNumber, int kKeyTiles, int kApart>
__device__ inline void AddToState(const uint8_t* keys,
                                  const Fragment (&w)[4],
                                  float (&s)[kKeyTiles][32]) {
  const uint64_t k = TilesOperand(keys, kApart);
#pragma unroll
  for (int j = 0; j < 4; ++j) {
    MultiplyAdd<kNumber, true>(s, w[j], k + j * kRows16, true);
  }
}

// Waits for products that add to these.
template <int kKeyTiles>
__device__ inline void EndProducts(float (&reads)[32],
                                   float (&s)[kKeyTiles][32]) {
  CommitProducts();
  WaitProducts<0>();
  Pin(reads);
  Pin(s);
}

// Leaves out, times `scale`, in the tile that the values were in; each warp has
// 16 values of every token.
__device__ inline void LeaveOut(float (&sums)[32],
                                float scale,
                                int warp,
                                uint8_t* tile) {
#pragma unroll
  for (int j = 0; j < 4; ++j) {
    Fragment x;
#pragma unroll
    for (int i = 8 * j; i < 8 * j + 8; ++i) sums[i] *= scale;
    Round<Number::kBfloat>(sums + 8 * j, x);
    StoreBlocksTransposed(TurnedAddress(SharedAddress(tile), warp, j), x);
  }
}

// Writes the first `count` tokens of out by way of that tile.
__device__ inline void WriteOut(float (&sums)[32],
                                uint8_t* tile,
                                int warp,
                                int count,
                                __nv_bfloat16* out,
                                int64_t stride) {
  LeaveOut(sums, 1.0F, warp, tile);
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
