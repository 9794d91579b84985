// SPDX-License-Identifier: Apache-2.0
//
// Up to 16 tokens of a unit, prepared for the products with its states:
//
//   lower_ij = beta_i P_ij k_i.k_j   j < i      P_ij: the decays of tokens
//   read_ij  = P_ij q_i.k_j          j <= i     j + 1 to i multiplied
//
// Factors are made by multiplication, not as differences of logarithms: a
// strong decay then costs its neighbours no precision. Tokens beyond a row's
// end are zero, do not decay and write nothing.
//
// Threads: all kPieceThreads of a group call each function together.
#pragma once

#include <cstdint>

#include "engine/kernels/cuda/gated_delta_pairs.cuh"
#include "engine/kernels/cuda/gated_delta_units.cuh"
#include "engine/kernels/cuda/tf32_product.cuh"
#include "engine/kernels/cuda/token_step.cuh"

namespace weir::engine {

// One head's; by token, and where it says so by place: RightRow(place) is the
// token.
struct HeadScores {
  alignas(16) float lower[kPieceTokens][kPieceTokens];  // [j][place of i]
  alignas(16) float read[kPieceTokens][kPieceTokens];   // [j][place of i]
  // By place: D of the key's and of the query's products.
  alignas(16) float met[kPieceTokens];
  alignas(16) float asked[kPieceTokens];
  alignas(16) float beta[kPieceTokens];  // by place
  alignas(16) float rest[kPieceTokens];  // by place: decay to the piece's end
  float all;                             // the whole piece's decay
  float token_decay[kPieceTokens];
  float token_beta[kPieceTokens];
};

template <int kKeyDim>
struct Piece {
  // MultiplyRows asks for 16 more than a multiple of 32.
  static constexpr int kStride = kKeyDim + 16;
  static constexpr int kValuesMax = UnitValuesMax(kKeyDim);
  static constexpr int kValuesHeld =
      kPieceTokens * (kValuesMax + 4 * kUnitHeadsMax);

  alignas(16) float keys[2 * kPieceTokens][kStride];  // k, then q
  float scales[2 * kPieceTokens];  // of keys, which all else has in it
  alignas(16) float dots[2][2 * kPieceTokens][kPieceTokens];
  HeadScores heads[kUnitHeadsMax];
  PiecePlace place;
  // [heads][tokens][ValueStride]: v, which the outputs then replace.
  alignas(16) float values[kValuesHeld];
};

}  // namespace weir::engine
