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

__device__ inline void ToFloats(float4 from, float* to) {
  to[0] = from.x;
  to[1] = from.y;
  to[2] = from.z;
  to[3] = from.w;
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
#pragma unroll
      for (int stage = 0; stage < kRingStages; ++stage) {
        InitBarrier(loaded + stage);
      }
#pragma unroll
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

  __device__ RingKeys(const float* from_q, const float* from_k, float2 scale) {
    Load(from_q, from_k, scale);
  }
  // Where there are not the registers to keep them from one row to the next.
  __device__ void Reload(const float* from_q,
                         const float* from_k,
                         float2 scale) {
    asm volatile("" ::: "memory");
    Load(from_q, from_k, scale);
  }

 private:
  __device__ void Load(const float* from_q, const float* from_k, float2 scale) {
#pragma unroll
    for (int piece = 0; piece < RingRows<kKeyDim>::kPieces; ++piece) {
      const int column = RingRows<kKeyDim>::Column(piece);
      ToFloats(*reinterpret_cast<const float4*>(from_q + column),
               q + 4 * piece);
      ToFloats(*reinterpret_cast<const float4*>(from_k + column),
               k + 4 * piece);
    }
#pragma unroll
    for (int i = 0; i < 16; ++i) {
      q[i] *= scale.x;
      k[i] *= scale.y;
    }
  }
};

// A row's products with q and k, x and y. Lanes with an even number have those
// of the first of their two rows, the others those of the second: so a sum over
// two rows' lanes takes as many exchanges as one over one row's.
template <int kKeyDim>
__device__ float2 RowProducts(const float* stage,
                              const RingKeys<kKeyDim>& keys) {
  using Rows = RingRows<kKeyDim>;
  float read[2] = {0, 0};
  float met[2] = {0, 0};
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
  const bool is_second = Rows::Lane() % 2 == 1;
  float2 sum =
      is_second ? make_float2(read[1], met[1]) : make_float2(read[0], met[0]);
  const float2 other =
      is_second ? make_float2(read[0], met[0]) : make_float2(read[1], met[1]);
  sum.x += __shfl_xor_sync(0xffffffffU, other.x, 1);
  sum.y += __shfl_xor_sync(0xffffffffU, other.y, 1);
#pragma unroll
  for (int step = 2; step < Rows::kLanes; step *= 2) {
    sum.x += __shfl_xor_sync(0xffffffffU, sum.x, step);
    sum.y += __shfl_xor_sync(0xffffffffU, sum.y, step);
  }
  return sum;
}

// What a step of a row gives.
struct RowStep {
  float u;
  float decay;
};

// Leaves u and o of the lane's row of RowProducts in shared memory.
template <int kKeyDim>
__device__ RowStep StepRow(int first,
                           int count,
                           float2 products,
                           float kq,
                           const RingValue* values,
                           float* to_u,
                           float* to_o) {
  using Rows = RingRows<kKeyDim>;
  const int row = first + Rows::Row(Rows::Lane() % 2);
  const int at = min(row, count - 1);
  const RingValue value = values[at];
  const float u = value.beta * (value.v - value.decay * products.y);
  if (Rows::Lane() % Rows::kLanes < 2 && row < count) {
    to_u[at] = u;
    to_o[at] = fmaf(u, kq, fmaf(value.decay, products.x, value.read));
  }
  return {u, value.decay};
}

}  // namespace weir::engine
