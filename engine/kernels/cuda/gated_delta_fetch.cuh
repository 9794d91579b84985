// SPDX-License-Identifier: Apache-2.0
//
// What a unit's tokens bring, read ahead of its use.
// gated_delta_together.cu, gated_delta_ring.cu.
//
// Threads: all kPieceThreads of a group call each function together.
#pragma once

#include <cstdint>

#include "engine/kernels/cuda/gated_delta_pairs.cuh"
#include "engine/kernels/cuda/gated_delta_units.cuh"

namespace weir::engine {

// What a thread reads of a piece, ahead of its use: of channels, and of a token
// and a head.
template <typename Input, int kKeyDim, int kTokens>
struct PieceInputs {
  static constexpr int kChannelsMax = 2 * kKeyDim + UnitValuesMax(kKeyDim);
  static constexpr int kEach =
      (kChannelsMax / 2 + kPieceThreads - 1) / kPieceThreads;

  PairInputs<Input, kTokens> pairs[kEach];
  Input a;
  Input b;
  float log2_rate;
  float dt_bias;

  // The first of the two channels: q, k, then the values of the unit's heads.
  __device__ static int Channel(int each) {
    return 2 * (each * kPieceThreads + static_cast<int>(threadIdx.x));
  }
  __device__ static int Column(const GatedDeltaDecodeArgs& args,
                               const PiecePlace& place,
                               int channel) {
    const int keys = args.key_heads * kKeyDim;
    if (channel >= 2 * kKeyDim) {
      return 2 * keys + place.head * args.value_dim + channel - 2 * kKeyDim;
    }
    const int key = place.key_head * kKeyDim + channel % kKeyDim;
    return channel < kKeyDim ? key : keys + key;
  }
};

template <int kTokens>
__device__ int GateToken() {
  return static_cast<int>(threadIdx.x) % kTokens;
}
template <int kTokens>
__device__ int GateHead() {
  return static_cast<int>(threadIdx.x) / kTokens;
}

template <typename Input, int kKeyDim, int kTokens>
__device__ void FetchPiece(const GatedDeltaDecodeArgs& args,
                           const UnitPlan& plan,
                           const PiecePlace& place,
                           PieceInputs<Input, kKeyDim, kTokens>& to) {
  const int channels = 2 * kKeyDim + plan.unit_heads * args.value_dim;
#pragma unroll
  for (int each = 0; each < to.kEach; ++each) {
    const int channel = to.Channel(each);
    if (channel >= channels) break;
    FetchPair(args, place, to.Column(args, place, channel), to.pairs[each]);
  }
  if (GateHead<kTokens>() >= plan.unit_heads) return;
  const int head = place.head + GateHead<kTokens>();
  const auto* x =
      static_cast<const Input*>(args.projected) +
      (place.first + place.begin + min(GateToken<kTokens>(), place.count - 1)) *
          args.projected_stride;
  to.a = x[args.a_column + head];
  to.b = x[args.b_column + head];
  to.log2_rate = args.log2_rate[head];
  to.dt_bias = args.dt_bias[head];
}

}  // namespace weir::engine
