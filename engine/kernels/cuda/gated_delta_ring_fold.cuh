// SPDX-License-Identifier: Apache-2.0
//
// Rows of a state written with what a ring holds: at the fold of
// gated_delta_ring.h.
//
// Threads: all of a warp call each function together.
#pragma once

#include <cstdint>

#include "engine/kernels/cuda/gated_delta_ring_place.cuh"
#include "engine/kernels/cuda/gated_delta_ring_rows.cuh"

namespace weir::engine {

// A number of each of a lane's two rows.
struct TwoRows {
  float numbers[2][16];
};

// rows += w k^T, where the lane's numbers of k are `scale` times those at
// `from`.
template <int kKeyDim>
__device__ void AddProduct(const float* from,
                           float scale,
                           const float (&w)[2],
                           TwoRows& rows) {
  using Rows = RingRows<kKeyDim>;
#pragma unroll
  for (int piece = 0; piece < Rows::kPieces; ++piece) {
    float k[4];
    ToFloats(*reinterpret_cast<const float4*>(from + Rows::Column(piece)), k);
#pragma unroll
    for (int row = 0; row < 2; ++row) {
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        float& to = rows.numbers[row][4 * piece + i];
        to = fmaf(w[row], k[i] * scale, to);
      }
    }
  }
}

// A warp's rows from `first` on, of `values`.
template <int kKeyDim>
__device__ void StoreRows(float* state,
                          int first,
                          int values,
                          const TwoRows& rows) {
  using Rows = RingRows<kKeyDim>;
#pragma unroll
  for (int row = 0; row < 2; ++row) {
    const int at = first + Rows::Row(row);
    if (at >= values) continue;
#pragma unroll
    for (int piece = 0; piece < Rows::kPieces; ++piece) {
      const float* from = rows.numbers[row] + 4 * piece;
      __stcs(reinterpret_cast<float4*>(state + int64_t{at} * kKeyDim +
                                       Rows::Column(piece)),
             make_float4(from[0], from[1], from[2], from[3]));
    }
  }
}

// A full ring's entries at a fold, in shared memory.
struct FoldEntries {
  const float* keys;  // [kRingHeld][K]
  int stride;         // between two entries' P_nj u_j of a value
  const float* k;     // the token's own, before it is of length one
  float scale;        // what makes it so
};

// Writes a lane's two rows, whose old numbers lie in the stage; `from` holds
// the entries of each row. A fresh state is zero, and its ring is empty.
template <int kKeyDim>
__device__ void FoldRows(const float* stage,
                         float* state,
                         int first,
                         int count,
                         bool is_fresh,
                         RowStep step,
                         const FoldEntries& with,
                         const float* const (&from)[2]) {
  using Rows = RingRows<kKeyDim>;
  const RowStep other = {__shfl_xor_sync(0xffffffffU, step.u, 1),
                         __shfl_xor_sync(0xffffffffU, step.decay, 1)};
  const bool is_second = Rows::Lane() % 2 == 1;
  const float u[2] = {is_second ? other.u : step.u,
                      is_second ? step.u : other.u};
  const float decay[2] = {is_second ? other.decay : step.decay,
                          is_second ? step.decay : other.decay};
  TwoRows rows;
#pragma unroll
  for (int row = 0; row < 2; ++row) {
#pragma unroll
    for (int piece = 0; piece < Rows::kPieces; ++piece) {
      float s[4] = {0, 0, 0, 0};
      if (!is_fresh) {
        ToFloats(*reinterpret_cast<const float4*>(
                     stage + Rows::Row(row) * kKeyDim + Rows::Column(piece)),
                 s);
      }
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        rows.numbers[row][4 * piece + i] = decay[row] * s[i];
      }
    }
  }
  if (!is_fresh) {
#pragma unroll 2
    for (int j = 0; j < kRingHeld; ++j) {
      const float w[2] = {from[0][j * with.stride], from[1][j * with.stride]};
      AddProduct<kKeyDim>(with.keys + j * kKeyDim, 1.0F, w, rows);
    }
  }
  AddProduct<kKeyDim>(with.k, with.scale, u, rows);
  StoreRows<kKeyDim>(state, first, count, rows);
}

}  // namespace weir::engine
