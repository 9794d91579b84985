// SPDX-License-Identifier: Apache-2.0
//
// How a piece is prepared.
// gated_delta_together.cu.
//
// Threads: all kPieceThreads of a group call each function together.
#pragma once

#include <cstdint>

#include "engine/kernels/cuda/gated_delta_fetch.cuh"
#include "engine/kernels/cuda/gated_delta_piece.cuh"

namespace weir::engine {

// Fills keys, not yet of length one, values and gates.
template <typename Input, int kKeyDim>
__device__ void ConvolvePiece(
    const GatedDeltaDecodeArgs& args,
    const UnitPlan& plan,
    const PiecePlace& place,
    bool keeps_window,
    const PieceInputs<Input, kKeyDim, kPieceTokens>& inputs,
    Piece<kKeyDim>& piece) {
  const int stride = ValueStride(args.value_dim);
  const int channels = 2 * kKeyDim + plan.unit_heads * args.value_dim;
#pragma unroll
  for (int each = 0; each < inputs.kEach; ++each) {
    const int channel = inputs.Channel(each);
    if (channel >= channels) break;
    // Where the first token's go, and what parts them from the next one's.
    const int row = channel < kKeyDim ? kPieceTokens : 0;
    const int value = channel - 2 * kKeyDim;
    const bool is_value = value >= 0;
    float* to = is_value ? piece.values +
                               value / args.value_dim * kPieceTokens * stride +
                               value % args.value_dim
                         : &piece.keys[row][channel % kKeyDim];
    const int step = is_value ? stride : Piece<kKeyDim>::kStride;
    const int column = inputs.Column(args, place, channel);
    ConvolvePair(args,
                 inputs.pairs[each],
                 column,
                 place.count,
                 [&](int token, float2 y) { StorePair(to + token * step, y); });
    if (keeps_window) {
      KeepPair(args, place, column, inputs.pairs[each]);
    }
  }
  if (GateHead<kPieceTokens>() >= plan.unit_heads) return;
  const bool here = GateToken<kPieceTokens>() < place.count;
  HeadScores& head = piece.heads[GateHead<kPieceTokens>()];
  head.token_decay[GateToken<kPieceTokens>()] =
      here ? exp2f(inputs.log2_rate *
                   SoftplusOf(static_cast<float>(inputs.a) + inputs.dt_bias))
           : 1.0F;
  head.token_beta[GateToken<kPieceTokens>()] =
      here ? args.beta_scale * SigmoidOf(static_cast<float>(inputs.b)) : 0.0F;
}

// Fills scales: what makes keys and queries of length one, queries times
// K^-1/2. The keys stay as they are, and what is made of them takes the scale.
template <int kKeyDim>
__device__ void MeasureKeys(Piece<kKeyDim>& piece) {
  constexpr int kRows = 2 * kPieceTokens;
  constexpr int kEach = kRows / (kPieceThreads / kWarp);
  constexpr int kPairs = kKeyDim / kWarp / 2;
  const int lane = static_cast<int>(threadIdx.x) % kWarp;
  const int first = static_cast<int>(threadIdx.x) / kWarp * kEach;
  float sums[kEach];
#pragma unroll
  for (int each = 0; each < kEach; ++each) {
    sums[each] = 0;
#pragma unroll
    for (int i = 0; i < kPairs; ++i) {
      const float2 x =
          PairAt(piece.keys[first + each] + 2 * (kWarp * i + lane));
      sums[each] = fmaf(x.x, x.x, fmaf(x.y, x.y, sums[each]));
    }
  }
#pragma unroll
  for (int step = kWarp / 2; step > 0; step /= 2) {
#pragma unroll
    for (int each = 0; each < kEach; ++each) {
      sums[each] += __shfl_xor_sync(0xffffffffU, sums[each], step);
    }
  }
  if (lane >= kEach) return;
  float sum = sums[0];
#pragma unroll
  for (int each = 1; each < kEach; ++each) {
    if (lane == each) sum = sums[each];
  }
  const float scale =
      first < kPieceTokens ? 1.0F : 1.0F / sqrtf(static_cast<float>(kKeyDim));
  piece.scales[first + lane] = scale * rsqrtf(sum + kHeadNormEps);
}

// Fills dots with [k; q] k^T before scaling, in two halves of the columns.
template <int kKeyDim>
__device__ void MultiplyKeys(Piece<kKeyDim>& piece) {
  constexpr int kHalf = kKeyDim / 2;
  constexpr int kStride = Piece<kKeyDim>::kStride;
  const int warp = static_cast<int>(threadIdx.x) / kWarp;
  const int lane = static_cast<int>(threadIdx.x) % kWarp;
  const int half = warp / 4;
  const int row = warp % 4 / 2 * 16;
  const int column = warp % 2 * 8;
  float sums[1][4] = {};
  MultiplyRows<kHalf, 1>(piece.keys[row] + half * kHalf,
                         kStride,
                         false,
                         piece.keys[column] + half * kHalf,
                         kStride,
                         sums);
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    const int of_row = row + lane / 4 + i / 2 * 8;
    const int place = column + lane % 4 * 2 + i % 2;
    piece.dots[half][of_row][RightRow(place)] = sums[0][i];
  }
}

template <int kKeyDim>
__device__ void ScoreTokens(const UnitPlan& plan, Piece<kKeyDim>& piece) {
  const int i = static_cast<int>(threadIdx.x) % kPieceTokens;
  const int j = static_cast<int>(threadIdx.x) / kPieceTokens;
  const int place = RightRow(i);
  const float of_j = piece.scales[j];
  const float of_key = piece.scales[i];
  const float of_query = piece.scales[kPieceTokens + i];
  const float met = (piece.dots[0][i][j] + piece.dots[1][i][j]) * of_j * of_key;
  const float read = (piece.dots[0][kPieceTokens + i][j] +
                      piece.dots[1][kPieceTokens + i][j]) *
                     of_j * of_query;
  for (int h = 0; h < plan.unit_heads; ++h) {
    HeadScores& head = piece.heads[h];
    // Sixteen threads have a j: the product over tokens j + 1 to i.
    float decay = i > j ? head.token_decay[i] : 1.0F;
#pragma unroll
    for (int back = 1; back < kPieceTokens; back *= 2) {
      const float before =
          __shfl_up_sync(0xffffffffU, decay, back, kPieceTokens);
      if (i >= back) decay *= before;
    }
    const float beta = head.token_beta[i];
    head.lower[j][place] = i > j ? beta * decay * met : 0.0F;
    head.read[j][place] = i >= j ? decay * read : 0.0F;
    if (i == kPieceTokens - 1) head.rest[RightRow(j)] = decay * of_j;
    if (j != 0) continue;
    const float whole = decay * head.token_decay[0];
    head.met[place] = whole * of_key;
    head.asked[place] = whole * of_query;
    head.beta[place] = beta;
    if (i == kPieceTokens - 1) head.all = whole;
  }
}

template <typename Input, int kKeyDim>
__device__ void PreparePiece(
    const GatedDeltaDecodeArgs& args,
    const UnitPlan& plan,
    const PiecePlace& place,
    bool keeps_window,
    const PieceInputs<Input, kKeyDim, kPieceTokens>& inputs,
    Piece<kKeyDim>& piece) {
  if (threadIdx.x == 0) piece.place = place;
  ConvolvePiece(args, plan, place, keeps_window, inputs, piece);
  PieceBarrier();
  MeasureKeys(piece);
  MultiplyKeys(piece);
  PieceBarrier();
  ScoreTokens(plan, piece);
}

}  // namespace weir::engine
