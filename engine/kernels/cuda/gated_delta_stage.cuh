// SPDX-License-Identifier: Apache-2.0
//
// A head's step on a stage of shared memory. gated_delta_stream.cu.
//
// Threads: all of a group call each function together.
#pragma once

#include <cstdint>

#include "engine/kernels/cuda/gated_delta_run.cuh"
#include "engine/kernels/cuda/state_tile.cuh"
#include "engine/kernels/cuda/token_step.cuh"

namespace weir::engine {

// A head's query and key, which lie in shared memory, and what follows of them.
struct HeadOperands {
  const float* q;
  const float* k;
  float kq;
  float decay;
  float beta;
};

template <typename Tile, typename Shared>
__device__ HeadOperands OperandsOf(const Shared& shared) {
  HeadOperands head;
  head.kq = 0;
  head.q = shared.q;
  head.k = shared.k;
  ForNumbers<Tile>(
      [&](int, int c) { head.kq = fmaf(head.k[c], head.q[c], head.kq); });
  head.kq = SumOverLanes<Tile::kLanes>(head.kq);
  head.decay = shared.decay;
  head.beta = shared.beta;
  return head;
}

// As StepToken, on the stage's rows. kFull: there are kTileRows of them.
template <typename Number, int kKeyDim, bool kFull>
__device__ void StepStage(Number* stage,
                          int rows,
                          bool fresh,
                          RoundingKey key,
                          const HeadOperands& head,
                          const float* v,
                          float* o) {
  using Tile = StateTile<Number, kKeyDim, 1, Memory::kShared>;
  constexpr int kPasses =
      TileCursor<Number, kKeyDim>::kTileRows / Tile::kPassRows;
  constexpr int kUnrolled = kKeyDim <= 128 ? 2 : 1;
#pragma unroll kUnrolled
  for (int pass = 0; pass < kPasses; ++pass) {
    const int first = pass * Tile::kPassRows;
    const int row = first + Tile::Row(0);
    const int left = kFull ? Tile::kPassRows : rows - first;
    Tile tile;
    tile.template Load<true>(stage + first * kKeyDim, left, kKeyDim, fresh);
    float* s = tile.numbers[0];
    float read = 0;
    float met = 0;
    ForNumbers<Tile>([&](int i, int c) {
      read = fmaf(s[i], head.q[c], read);
      met = fmaf(s[i], head.k[c], met);
    });
    read = SumOverLanes<Tile::kLanes>(read);
    met = SumOverLanes<Tile::kLanes>(met);
    const float value = kFull || row < rows ? v[row] : 0.0F;
    const float u = head.beta * (value - head.decay * met);
    ForNumbers<Tile>(
        [&](int i, int c) { s[i] = fmaf(u, head.k[c], head.decay * s[i]); });
    if (Tile::Lane() == 0 && (kFull || row < rows)) {
      o[row] = fmaf(u, head.kq, read * head.decay);
    }
    tile.template Store<true>(
        stage + first * kKeyDim, left, kKeyDim, key.From(first * kKeyDim));
  }
}

}  // namespace weir::engine
