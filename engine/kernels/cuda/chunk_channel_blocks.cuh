// SPDX-License-Identifier: Apache-2.0
//
// With a decay a key channel: products of a chunk's queries or keys with its
// earlier keys, each channel decayed from the one token to the other,
//
//   sum over c of x_ic k_jc 2^(G_ic - G_jc), j <= i,
//
// where G sums a channel's log2 decays. Only 2^y with y <= 0 is taken: tokens
// of two different blocks are both held against the boundary r of the later
// one, 2^(G_i - G_(r-1)) and 2^(G_(r-1) - G_j), and multiplied by the tensor
// cores: blocks of 16, of 8 in these and of 4 in those. In blocks of 4 each
// factor is taken by itself.
#pragma once

#include <cuda_fp16.h>

#include "engine/kernels/cuda/chunk_fragment.cuh"
#include "engine/kernels/cuda/chunk_shared.cuh"

namespace weir::engine {

template <int kKeyTiles>
struct ChannelSums {
  // Rows apart by 8 banks more than a whole number of turns: a fragment's rows
  // share none.
  float g[kChunkTokens][64 * kKeyTiles + 8];
};

// Products of a warp's 16 rows with all tokens up to them.
struct RowSums {
  float far[3][8];   // with the 16 tokens of earlier blocks
  float eight[4];    // rows 8 to 15 with tokens 0 to 7
  float four[2][4];  // rows 4 to 7 with tokens 0 to 3; the same, 8 on
};

// G at a fragment's places: numbers 0 and 2 are of row `row`, 1 and 3 of the
// row 8 on; the last two 8 channels on.
template <int kKeyTiles>
__device__ inline void LoadSums(const ChannelSums<kKeyTiles>& sums,
                                int row,
                                int channel,
                                float2 (&g)[4]) {
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    g[i] = *reinterpret_cast<const float2*>(
        &sums.g[row + (i & 1) * 8][channel + (i & 2) * 4]);
  }
}
// G just before a token, at the fragment's channels.
template <int kKeyTiles>
__device__ inline void LoadBoundary(const ChannelSums<kKeyTiles>& sums,
                                    int token,
                                    int channel,
                                    float2 (&g)[2]) {
#pragma unroll
  for (int i = 0; i < 2; ++i) {
    g[i] = token == 0 ? float2{0.0F, 0.0F}
                      : *reinterpret_cast<const float2*>(
                            &sums.g[token - 1][channel + 8 * i]);
  }
}

// x times scale 2^(to - from), in bf16 and then in fp16.
__device__ inline uint32_t Decayed(uint32_t x,
                                   float scale,
                                   float2 to,
                                   float2 from) {
  const float2 numbers = Unpack<Number::kBfloat>(x);
  return Pack<Number::kHalf>(scale * numbers.x * Exp2(to.x - from.x),
                             scale * numbers.y * Exp2(to.y - from.y));
}

// Rows `left` and keys as tiles of bf16; block row `block`. With left being the
// keys or the queries.
template <int kKeyTiles>
__device__ inline void MultiplyRows(const KeyTile (&tiles)[kKeyTiles],
                                    uint8_t (KeyTile::*rows)[kTileBytes],
                                    const ChannelSums<kKeyTiles>& sums,
                                    int block,
                                    float row_scale,
                                    float key_scale,
                                    RowSums& to) {
  const int lane = Lane();
  const int row = 16 * block + lane / 4;
#pragma unroll 1
  for (int step = 0; step < 4 * kKeyTiles; ++step) {
    const KeyTile& tile = tiles[step / 4];
    const int channel = 16 * step + 2 * (lane & 3);
    Fragment x;
    Fragment k;
    LoadBlocks(BlockAddress(SharedAddress(tile.*rows), block, step % 4), x);
    LoadBlocks(BlockAddress(SharedAddress(tile.k), block, step % 4), k);
    float2 g[4];
    LoadSums(sums, row, channel, g);
    float2 at[2];
    Fragment a;
    Fragment b;
    // Blocks of 16.
    LoadBoundary(sums, 16 * block, channel, at);
#pragma unroll
    for (int i = 0; i < 4; ++i)
      a[i] = Decayed(x[i], row_scale, g[i], at[i / 2]);
#pragma unroll
    for (int j = 0; j < 3; ++j) {
      if (j >= block) continue;
      Fragment earlier;
      float2 g_earlier[4];
      LoadBlocks(BlockAddress(SharedAddress(tile.k), j, step % 4), earlier);
      LoadSums(sums, 16 * j + lane / 4, channel, g_earlier);
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        b[i] = Decayed(earlier[i], key_scale, at[i / 2], g_earlier[i]);
      }
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        MultiplyHalf(to.far[j] + 4 * half, a, b[half], b[half + 2]);
      }
    }
    // Of 8.
    LoadBoundary(sums, 16 * block + 8, channel, at);
    a[0] = 0;
    a[2] = 0;
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      a[2 * i + 1] = Decayed(x[2 * i + 1], row_scale, g[2 * i + 1], at[i]);
      b[i] = Decayed(k[2 * i], key_scale, at[i], g[2 * i]);
    }
    MultiplyHalf(to.eight, a, b[0], b[1]);
    // Of 4: what a row or token on the wrong side of its boundary gives is no
    // number, perhaps, and is not taken.
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      LoadBoundary(sums, 16 * block + 8 * half + 4, channel, at);
#pragma unroll
      for (int i = 0; i < 2; ++i) {
        const int n = 2 * i + half;
        a[n] = Decayed(x[n], row_scale, g[n], at[i]);
        a[n ^ 1] = 0;
        b[i] = Decayed(k[n], key_scale, at[i], g[n]);
      }
      MultiplyHalf(to.four[half], a, b[0], b[1]);
    }
  }
}

}  // namespace weir::engine
