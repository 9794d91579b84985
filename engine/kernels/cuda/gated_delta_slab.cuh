// SPDX-License-Identifier: Apache-2.0
//
// A warp takes 16 rows of a head's state over a piece of tokens:
//
//   W = S k^T, A = S q^T
//   U_i = beta_i (v_i - D_i W_i) - sum of lower_ij U_j
//   O_i = D_i A_i + sum of read_ij U_j          D_i: decay of tokens 0 to i
//   S = D S + (rest U) k
//
// Rows of a state do not know of each other: what a slab has beyond a head's
// values is read and written as the rest, and leaves the block nowhere.
// gated_delta_together.cu.
//
// Threads: all of a warp call each function together.
#pragma once

#include <cstdint>

#include "engine/kernels/cuda/gated_delta_piece.cuh"

namespace weir::engine {

// A thread's rows g and g + 8 of a slab, of the tokens at places 2t, 2t + 1 and
// 8 beyond: row g's two, then row g + 8's.
using TokenTiles = float[2][4];

__device__ inline float2 AtPlaces(const float (&table)[kPieceTokens], int n) {
  const int t = static_cast<int>(threadIdx.x) % 4;
  return PairAt(table + 8 * n + 2 * t);
}

// u: W and then U. o: A and then O. Token after token: the thread that holds
// one's u gives it to the three others of its rows.
__device__ inline void SolveTokens(const HeadScores& head,
                                   TokenTiles& u,
                                   TokenTiles& o) {
  const int lane = static_cast<int>(threadIdx.x) % kWarp;
#pragma unroll
  for (int token = 0; token < kPieceTokens; ++token) {
    const int place = RightRow(token);
    const int tile = place / 8;
    const int owner = (lane & ~3) | place % 8 / 2;
    const float x = __shfl_sync(0xffffffffU, u[tile][place % 2], owner);
    const float y = __shfl_sync(0xffffffffU, u[tile][place % 2 + 2], owner);
#pragma unroll
    for (int n = tile; n < 2; ++n) {
      const float2 lower = AtPlaces(head.lower[token], n);
      const float2 read = AtPlaces(head.read[token], n);
      u[n][0] = fmaf(-lower.x, x, u[n][0]);
      u[n][1] = fmaf(-lower.y, x, u[n][1]);
      u[n][2] = fmaf(-lower.x, y, u[n][2]);
      u[n][3] = fmaf(-lower.y, y, u[n][3]);
      o[n][0] = fmaf(read.x, x, o[n][0]);
      o[n][1] = fmaf(read.y, x, o[n][1]);
      o[n][2] = fmaf(read.x, y, o[n][2]);
      o[n][3] = fmaf(read.y, y, o[n][3]);
    }
  }
}

// From products to what the state takes and, in place of the values, what is
// read of it.
__device__ inline void StepTokens(const HeadScores& head,
                                  float* values,
                                  int stride,
                                  TokenTiles& u,
                                  TokenTiles& o) {
  const int lane = static_cast<int>(threadIdx.x) % kWarp;
  float* at[2][2];  // the tokens' values of row g
#pragma unroll
  for (int n = 0; n < 2; ++n) {
    const float2 met = AtPlaces(head.met, n);
    const float2 asked = AtPlaces(head.asked, n);
    const float2 beta = AtPlaces(head.beta, n);
#pragma unroll
    for (int e = 0; e < 2; ++e) {
      const int token = RightRow(8 * n + lane % 4 * 2 + e);
      at[n][e] = values + token * stride + lane / 4;
      const float d = e == 0 ? met.x : met.y;
      const float a = e == 0 ? asked.x : asked.y;
      const float b = e == 0 ? beta.x : beta.y;
      u[n][e] = b * (at[n][e][0] - d * u[n][e]);
      u[n][e + 2] = b * (at[n][e][8] - d * u[n][e + 2]);
      o[n][e] *= a;
      o[n][e + 2] *= a;
    }
  }
  SolveTokens(head, u, o);
#pragma unroll
  for (int n = 0; n < 2; ++n) {
    const float2 rest = AtPlaces(head.rest, n);
#pragma unroll
    for (int e = 0; e < 2; ++e) {
      at[n][e][0] = o[n][e];
      at[n][e][8] = o[n][e + 2];
      const float r = e == 0 ? rest.x : rest.y;
      u[n][e] *= r;
      u[n][e + 2] *= r;
    }
  }
}

// slab = decay slab + u keys.
template <int kKeyDim, typename Number>
__device__ void UpdateSlab(Number* slab,
                           bool fresh,
                           const RoundingKey& key,
                           float decay,
                           const TokenTiles& u,
                           const Piece<kKeyDim>& piece) {
  constexpr int kStride = Piece<kKeyDim>::kStride;
  const int lane = static_cast<int>(threadIdx.x) % kWarp;
  const int g = lane / 4;
  const int t = lane % 4;
  LeftTile left[2];
#pragma unroll
  for (int n = 0; n < 2; ++n) {
    left[n] = LeftTile::Of(u[n][0], u[n][2], u[n][1], u[n][3]);
  }
  // Of the column that is right row g of the first of two tiles; that of the
  // second lies 2 beyond.
  const float* from = piece.keys[0] + (g / 2 * 4 + g % 2);
  const int row = RightRow(2 * t) * kStride;
  const int row2 = RightRow(2 * t + 1) * kStride;
  const int first = g * kKeyDim + 4 * t;
#pragma unroll 1
  for (int c = 0; c < kKeyDim; c += 32) {
    float sums[4][4] = {};
#pragma unroll
    for (int n = 0; n < 2; ++n) {
      const float* k = from + 8 * n * kStride + c;
      RightTile right[4];
#pragma unroll
      for (int tile = 0; tile < 4; ++tile) {
        const int column = tile / 2 * 16 + tile % 2 * 2;
        right[tile] = RightTile::Of(k[row + column], k[row2 + column]);
      }
      Multiply(sums, left[n], right);
    }
#pragma unroll
    for (int part = 0; part < 4; ++part) {
      const int half = part / 2;
      const int index = first + 8 * half * kKeyDim + c + part % 2 * 16;
      float s[4] = {};
      if (!fresh) LoadFour(slab + index, s);
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        s[i] = fmaf(decay, s[i], sums[part % 2 * 2 + i / 2][2 * half + i % 2]);
      }
      StoreFour(slab + index, s, key, index);
    }
  }
}

// values: the slab's first, of the piece's first token.
template <int kKeyDim, typename Number>
__device__ void StepSlab(Number* slab,
                         bool fresh,
                         const RoundingKey& key,
                         const HeadScores& head,
                         float* values,
                         int stride,
                         const Piece<kKeyDim>& piece) {
  float products[4][4] = {};
  MultiplyRows<kKeyDim, 4>(
      slab, kKeyDim, fresh, piece.keys[0], Piece<kKeyDim>::kStride, products);
  TokenTiles u;
  TokenTiles o;
#pragma unroll
  for (int n = 0; n < 2; ++n) {
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      u[n][i] = products[n][i];
      o[n][i] = products[2 + n][i];
    }
  }
  StepTokens(head, values, stride, u, o);
  UpdateSlab(slab, fresh, key, head.all, u, piece);
}

}  // namespace weir::engine
