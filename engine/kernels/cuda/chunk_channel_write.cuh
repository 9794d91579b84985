// SPDX-License-Identifier: Apache-2.0
//
// With a decay a key channel: a chunk's system, scores, queries and keys, from
// the products of chunk_channel_blocks.cuh to where they are needed.
#pragma once

#include "engine/kernels/cuda/chunk_channel_blocks.cuh"
#include "engine/kernels/cuda/chunk_channel_near.cuh"
#include "engine/kernels/cuda/chunk_inverse.cuh"
#include "engine/kernels/cuda/chunk_shared.cuh"

namespace weir::engine {

// Writes L of the warp's block row.
__device__ inline void WriteChannelSystem(const RowSums& sums,
                                          const float (&near)[4][16],
                                          const float* beta,
                                          float scale,
                                          int warp,
                                          LowerMatrix& lower) {
  const int lane = Lane();
  const int row = lane / 4;
  const int column = 2 * (lane & 3);
  const float factors[2] = {scale * beta[16 * warp + row],
                            scale * beta[16 * warp + row + 8]};
#pragma unroll
  for (int block = 0; block < 3; ++block) {
    if (block >= warp) continue;
#pragma unroll
    for (int i = 0; i < 8; i += 2) {
      const float factor = factors[i / 2 & 1];
      StoreTwice(lower.below,
                 16 * warp + row + (i & 2) * 4,
                 16 * block + column + (i & 4) * 2,
                 factor * sums.far[block][i],
                 factor * sums.far[block][i + 1]);
    }
  }
  float(&diagonal)[16][20] = lower.diagonal[warp];
#pragma unroll
  for (int i = 0; i < 2; ++i) {
    diagonal[column + i][row + 8] = factors[1] * sums.eight[2 + i];
    if (row < 4 || column >= 4) continue;
    diagonal[column + i][row] = factors[0] * sums.four[0][i];
    diagonal[column + 8 + i][row + 8] = factors[1] * sums.four[1][2 + i];
  }
  if (lane >= 24) return;
  const int pair = lane % 6;
  const int i = pair == 0 ? 1 : pair < 3 ? 2 : 3;
  const int j = pair - i * (i - 1) / 2;
  const int four = lane / 6;
  diagonal[4 * four + j][4 * four + i] =
      scale * beta[16 * warp + 4 * four + i] * near[four][NearIndex(i, j)];
}

// The score of row i and token j of the warp's block, in which the products lie
// at this lane as `sums` says.
__device__ inline float ScoreOf(
    const float (&near)[4][16], int i, int j, float eight, float four) {
  if (j > i) return 0.0F;
  if (i / 4 == j / 4) return near[i / 4][NearIndex(i & 3, j & 3)];
  return i / 8 != j / 8 ? eight : four;
}

// Writes the scores of the warp's block row.
__device__ inline void WriteChannelScores(const RowSums& sums,
                                          const float (&near)[4][16],
                                          int warp,
                                          uint8_t* scores) {
  const int lane = Lane();
  const int row = lane / 4;
  const int column = 2 * (lane & 3);
  const auto write = [&](int i, int j, float first, float second) {
    *reinterpret_cast<uint32_t*>(scores + NumberOffset(16 * warp + i, j)) =
        Pack<Number::kHalf>(first, second);
  };
#pragma unroll
  for (int block = 0; block < 3; ++block) {
    if (block >= warp) continue;
#pragma unroll
    for (int i = 0; i < 8; i += 2) {
      write(row + (i & 2) * 4,
            16 * block + column + (i & 4) * 2,
            sums.far[block][i],
            sums.far[block][i + 1]);
    }
  }
#pragma unroll
  for (int n = 0; n < 4; ++n) {
    const int half = n & 1;
    const int i = row + 8 * half;
    const int j = column + (n & 2) * 4;
    float score[2];
#pragma unroll
    for (int at = 0; at < 2; ++at) {
      score[at] = ScoreOf(
          near, i, j + at, sums.eight[2 + at], sums.four[half][2 * half + at]);
    }
    write(i, 16 * warp + j, score[0], score[1]);
  }
}

// Writes queries and keys as they meet the state: decayed from the chunk's
// start, keys also to its end; and what the state decays by.
template <int kKeyTiles>
__device__ inline void WriteDecayed(const KeyTile (&tiles)[kKeyTiles],
                                    const ChannelSums<kKeyTiles>& sums,
                                    float query_scale,
                                    float key_scale,
                                    int warp,
                                    ChannelOperands<kKeyTiles>& to) {
  const int lane = Lane();
#pragma unroll
  for (int tile = 0; tile < kKeyTiles; ++tile) {
    const int channel = 64 * tile + 2 * lane;
    const float2 last =
        *reinterpret_cast<const float2*>(&sums.g[kChunkTokens - 1][channel]);
    if (warp == 0) {
      *reinterpret_cast<float2*>(&to.scales.key_decay[channel]) =
          float2{Exp2(last.x), Exp2(last.y)};
    }
#pragma unroll 4
    for (int token = 16 * warp; token < 16 * warp + 16; ++token) {
      const uint32_t at = NumberOffset(token, 2 * lane);
      const float2 g =
          *reinterpret_cast<const float2*>(&sums.g[token][channel]);
      const KeyTile& from = tiles[tile];
      const uint32_t k = *reinterpret_cast<const uint32_t*>(from.k + at);
      const uint32_t q = *reinterpret_cast<const uint32_t*>(from.q + at);
      const float2 zero = {0.0F, 0.0F};
      *reinterpret_cast<uint32_t*>(to.keys[tile].k + at) =
          Decayed(k, key_scale, g, zero);
      *reinterpret_cast<uint32_t*>(to.keys[tile].q + at) =
          Decayed(q, query_scale, g, zero);
      *reinterpret_cast<uint32_t*>(to.writes[tile] + at) =
          Decayed(k, key_scale, last, g);
    }
  }
}

// Without a correction the inverse is the identity.
__device__ inline void WriteIdentity(uint8_t (&inverse)[2][kTileBytes]) {
  VisitLowerWords([&](int word) {
    const int row = word / 8;
    const int column = row - ((word ^ row) & 7) * 8;
    uint32_t pairs[4];
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      pairs[i] = Pack<Number::kHalf>(column == 2 * i ? 1.0F : 0.0F,
                                     column == 2 * i + 1 ? 1.0F : 0.0F);
    }
    reinterpret_cast<uint4*>(inverse[0])[word] =
        uint4{pairs[0], pairs[1], pairs[2], pairs[3]};
    reinterpret_cast<uint4*>(inverse[1])[word] = uint4{0, 0, 0, 0};
  });
}

}  // namespace weir::engine
