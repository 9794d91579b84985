// SPDX-License-Identifier: Apache-2.0
//
// A block of gated_delta_ring.cu over its rows of the state: each warp has rows
// of its own, which the copy engine brings while the warp works on those
// before.
//
// Threads: all of a warp call each function together.
#pragma once

#include <cstdint>

#include "engine/kernels/cuda/bulk_transfer.cuh"
#include "engine/kernels/cuda/gated_delta_ring_place.cuh"
#include "engine/kernels/cuda/token_step.cuh"

namespace weir::engine {

// A number of each of a lane's two rows.
struct TwoRows {
  float numbers[2][16];
};

__device__ inline void ToFloats(float4 from, float* to) {
  to[0] = from.x;
  to[1] = from.y;
  to[2] = from.z;
  to[3] = from.w;
}

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

// rows += sum_j P_nj u_j k_j^T: `u` points to the first entry's value of each
// row, `rest` to the row's head's P.
template <int kKeyDim>
__device__ void AddEntries(const float* keys,
                           const float* const (&u)[2],
                           const float* const (&rest)[2],
                           int held,
                           int value_dim,
                           TwoRows& rows) {
#pragma unroll 1
  for (int j = 0; j < held; ++j) {
    const float w[2] = {rest[0][j] * u[0][j * value_dim],
                        rest[1][j] * u[1][j * value_dim]};
    AddProduct<kKeyDim>(keys + j * kKeyDim, 1.0F, w, rows);
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

// A warp's rows of the block's part of the state, kRows at a time: those of its
// turns, kRingWarps apart.
template <int kKeyDim>
struct RingStream {
  using Rows = RingRows<kKeyDim>;

  const float* state;  // the block's first row
  int32_t values;
  float* stages;
  uint64_t* loaded;

  __device__ int First(int turn) const {
    return (turn * kRingWarps + Rows::Warp()) * Rows::kRows;
  }
  __device__ float* Stage(int turn) const {
    return stages + turn % kRingStages * Rows::kRows * kKeyDim;
  }
  // One lane.
  __device__ void Start(int turn) const {
#if __CUDA_ARCH__ >= 900
    const int first = First(turn);
    if (first >= values) return;
    const int rows = min(Rows::kRows, values - first);
    StartLoad(Stage(turn),
              state + int64_t{first} * kKeyDim,
              static_cast<uint32_t>(rows * kKeyDim * sizeof(float)),
              loaded + turn % kRingStages);
#endif
  }
  __device__ void Begin() const {
#if __CUDA_ARCH__ >= 900
    if (Rows::Lane() == 0) {
      for (int stage = 0; stage < kRingStages; ++stage) {
        InitBarrier(loaded + stage);
      }
      for (int turn = 0; turn < kRingStages; ++turn) Start(turn);
    }
    __syncwarp();
#endif
  }
  __device__ void Wait(int turn) const {
#if __CUDA_ARCH__ >= 900
    WaitLoad(loaded + turn % kRingStages, turn / kRingStages % 2);
#endif
  }
  // When all lanes have read the turn's rows.
  __device__ void Next(int turn) const {
    __syncwarp();
    if (Rows::Lane() == 0) Start(turn + kRingStages);
  }
};

// This lane's numbers of q and k, of length one.
template <int kKeyDim>
struct RingKeys {
  float q[16];
  float k[16];

  __device__ RingKeys(const RingShared<kKeyDim>& shared, float2 scale) {
#pragma unroll
    for (int piece = 0; piece < RingRows<kKeyDim>::kPieces; ++piece) {
      const int column = RingRows<kKeyDim>::Column(piece);
      ToFloats(*reinterpret_cast<const float4*>(shared.q + column),
               q + 4 * piece);
      ToFloats(*reinterpret_cast<const float4*>(shared.k + column),
               k + 4 * piece);
    }
#pragma unroll
    for (int i = 0; i < 16; ++i) {
      q[i] *= scale.x;
      k[i] *= scale.y;
    }
  }
};

// The products of a lane's two rows with q and k, the same for all lanes of a
// row.
template <int kKeyDim>
__device__ void RowProducts(const float* stage,
                            const RingKeys<kKeyDim>& keys,
                            float (&read)[2],
                            float (&met)[2]) {
  using Rows = RingRows<kKeyDim>;
#pragma unroll
  for (int row = 0; row < 2; ++row) read[row] = met[row] = 0;
#pragma unroll
  for (int piece = 0; piece < Rows::kPieces; ++piece) {
#pragma unroll
    for (int row = 0; row < 2; ++row) {
      float s[4];
      ToFloats(*reinterpret_cast<const float4*>(
                   stage + Rows::Row(row) * kKeyDim + Rows::Column(piece)),
               s);
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        read[row] = fmaf(s[i], keys.q[4 * piece + i], read[row]);
        met[row] = fmaf(s[i], keys.k[4 * piece + i], met[row]);
      }
    }
  }
#pragma unroll
  for (int row = 0; row < 2; ++row) {
    read[row] = SumOverLanes<Rows::kLanes>(read[row]);
    met[row] = SumOverLanes<Rows::kLanes>(met[row]);
  }
}

// Leaves u and o of a lane's two rows in shared memory, and returns u and the
// decay of each.
template <int kKeyDim>
__device__ void StepRows(int first,
                         int values,
                         const float (&read)[2],
                         const float (&met)[2],
                         RingShared<kKeyDim>& shared,
                         float (&u)[2],
                         float (&decay)[2]) {
  using Rows = RingRows<kKeyDim>;
  const float kq = shared.met[kRingHeld].y;
#pragma unroll
  for (int row = 0; row < 2; ++row) {
    const int at = min(first + Rows::Row(row), values - 1);
    const RingValue value = shared.values[at];
    u[row] = value.beta * (value.v - value.decay * met[row]);
    decay[row] = value.decay;
    if (Rows::Lane() % Rows::kLanes == 0 && first + Rows::Row(row) < values) {
      shared.u[at] = u[row];
      shared.o[at] = fmaf(u[row], kq, fmaf(value.decay, read[row], value.read));
    }
  }
}

}  // namespace weir::engine
