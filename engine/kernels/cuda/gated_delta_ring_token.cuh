// SPDX-License-Identifier: Apache-2.0
//
// What stands around the rows of the state in both of the ring form's ways: a
// token's keys and gates, what the ring adds to a value, an output.
//
// Threads: all of a warp call each function together.
#pragma once

#include <cstdint>

#include "engine/kernels/cuda/gated_delta_ring_place.cuh"
#include "engine/kernels/cuda/gated_delta_ring_rows.cuh"
#include "engine/kernels/cuda/token_step.cuh"

namespace weir::engine {

// A lane's numbers of a key, of which two or four lie together.
template <int kEach>
__device__ void LoadKey(const float* from, float (&to)[kEach]) {
  const int lane = static_cast<int>(threadIdx.x) % kWarp;
  if constexpr (kEach == 2) {
    const float2 two = reinterpret_cast<const float2*>(from)[lane];
    to[0] = two.x;
    to[1] = two.y;
  } else {
#pragma unroll
    for (int piece = 0; piece < kEach / 4; ++piece) {
      ToFloats(reinterpret_cast<const float4*>(from)[piece * kWarp + lane],
               to + 4 * piece);
    }
  }
}
template <int kEach>
__device__ void StoreKey(const float (&from)[kEach], float* to) {
  const int lane = static_cast<int>(threadIdx.x) % kWarp;
  if constexpr (kEach == 2) {
    reinterpret_cast<float2*>(to)[lane] = make_float2(from[0], from[1]);
  } else {
#pragma unroll
    for (int piece = 0; piece < kEach / 4; ++piece) {
      const float* of = from + 4 * piece;
      reinterpret_cast<float4*>(to)[piece * kWarp + lane] =
          make_float4(of[0], of[1], of[2], of[3]);
    }
  }
}

// Of a head, by a half of a warp; the halves may have different heads.
struct RingGate {
  float decay;
  float beta;
  float entry;  // the decay of the lane's entry

  __device__ static int Lane() {
    return static_cast<int>(threadIdx.x) % (kWarp / 2);
  }

  template <typename Input>
  __device__ void Fetch(const GatedDeltaDecodeArgs& args,
                        const Input* x,
                        const Ring& ring,
                        int head,
                        int held) {
    entry = Lane() < held ? ring.Marks(head)[Lane()] : 1.0F;
    decay = exp2f(args.log2_rate[head] *
                  SoftplusOf(static_cast<float>(x[args.a_column + head]) +
                             args.dt_bias[head]));
    beta = args.beta_scale *
           SigmoidOf(static_cast<float>(x[args.b_column + head]));
  }
  // Fills a head's `rest`. All of the warp.
  __device__ void Chain(float (&rest)[kRingSteps]) const {
    constexpr unsigned kAll = 0xffffffffU;
    constexpr int kHalf = kWarp / 2;
    static_assert(kRingSteps <= kHalf);
    float product = entry;  // of the entries from the lane's on
#pragma unroll
    for (int step = 1; step < kHalf; step *= 2) {
      const float other = __shfl_down_sync(kAll, product, step, kHalf);
      if (Lane() + step < kRingSteps) product *= other;
    }
    const float after = __shfl_down_sync(kAll, product, 1, kHalf);
    const float all = __shfl_sync(kAll, product, 0, kHalf);
    if (Lane() < kRingHeld) rest[Lane()] = after * decay;
    if (Lane() == kRingHeld) rest[kRingHeld] = all * decay;
  }
};

// What makes q and k, which lie in shared memory, of length one.
template <int kKeyDim, typename Shared>
__device__ float2 ScaleOfKeys(const Shared& shared) {
  float q = kHeadNormEps;
  float k = kHeadNormEps;
#pragma unroll
  for (int w = 0; w < kKeyDim / kWarp; ++w) {
    q += shared.squares[w];
    k += shared.squares[kKeyDim / kWarp + w];
  }
  return make_float2(rsqrtf(q), rsqrtf(k));
}

// Channel c of q or k, a warp's channels together.
template <int kKeyDim, typename Shared>
__device__ void KeepChannel(int c, float y, Shared& shared) {
  const float sum = SumOverLanes<kWarp>(y * y);
  if (c % kWarp == 0) shared.squares[c / kWarp] = sum;
  if (c < kKeyDim) {
    shared.q[c] = y * (1.0F / sqrtf(static_cast<float>(kKeyDim)));
  } else {
    shared.k[c - kKeyDim] = y;
  }
}

// This lane's numbers of q and k of length one, and products with them.
template <int kKeyDim>
struct OwnKeys {
  static constexpr int kEach = kKeyDim / kWarp;
  float q[kEach];
  float k[kEach];

  template <typename Shared>
  __device__ OwnKeys(const Shared& shared, float2 scale) {
    LoadKey(shared.q, q);
    LoadKey(shared.k, k);
#pragma unroll
    for (int i = 0; i < kEach; ++i) {
      q[i] *= scale.x;
      k[i] *= scale.y;
    }
  }
  // With k and with q.
  __device__ float2 Meet(const float (&key)[kEach]) const {
    float2 sum = {0, 0};
#pragma unroll
    for (int i = 0; i < kEach; ++i) {
      sum.x = fmaf(key[i], k[i], sum.x);
      sum.y = fmaf(key[i], q[i], sum.y);
    }
    return {SumOverLanes<kWarp>(sum.x), SumOverLanes<kWarp>(sum.y)};
  }
};

// What the ring adds to the products of a value.
struct RingSums {
  float met = 0;
  float read = 0;

  // An entry: P_nj, u_j and what its key met. Returns P_nj u_j.
  __device__ float Add(float rest, float u, float2 key) {
    const float w = rest * u;
    met = fmaf(w, key.x, met);
    read = fmaf(w, key.y, read);
    return w;
  }
  __device__ RingValue Value(float v, float decay, float beta) const {
    return {v - met, read, decay, beta};
  }
};

// An output of a head whose outputs' squares sum up to `total`.
__device__ inline float GatedOutput(const GatedDeltaDecodeArgs& args,
                                    float o,
                                    float total,
                                    float norm_weight,
                                    float z) {
  const float mean = total / static_cast<float>(args.value_dim);
  float y = o * rsqrtf(mean + args.norm_eps) * norm_weight;
  if (args.gate == GateKind::kSilu) y *= SiluOf(z);
  if (args.gate == GateKind::kSigmoid) y *= SigmoidOf(z);
  return y;
}

}  // namespace weir::engine
