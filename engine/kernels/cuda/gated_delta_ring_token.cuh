// SPDX-License-Identifier: Apache-2.0
//
// What stands around a block's rows in gated_delta_ring.cu: the token's inputs
// and the ring's entries are read, and reduced to a few numbers a value; the
// outputs are made.
//
// Threads: all of a block call each function together.
#pragma once

#include <cooperative_groups.h>

#include <cstdint>

#include "engine/kernels/cuda/gated_delta_ring_place.cuh"
#include "engine/kernels/cuda/gated_delta_ring_rows.cuh"
#include "engine/kernels/cuda/token_step.cuh"

namespace weir::engine {

// What a row's channels have in common.
template <typename Input, int kWidth>
struct RingInputs {
  static constexpr int kHeld = ChannelInputs<kWidth>::kHeld;

  const Input* x;    // the token's projections
  Input* window;     // the slot's
  int entry[kHeld];  // of each tap, the oldest first
  int own;           // of the token
  int taps;
  uint32_t consumed;

  __device__ RingInputs(const GatedDeltaDecodeArgs& args,
                        const RingPlace& place)
      : x(static_cast<const Input*>(args.projected) +
          place.token * args.projected_stride),
        window(static_cast<Input*>(args.window) +
               place.slot * args.window_stride),
        taps(Taps<kWidth>(args)),
        consumed(place.consumed) {
    const int mixed =
        2 * args.key_heads * args.key_dim + args.heads * args.value_dim;
    const auto width = static_cast<uint32_t>(taps);
#pragma unroll
    for (int tap = 0; tap < kHeld; ++tap) {
      entry[tap] = static_cast<int>((consumed + tap + 1) % width) * mixed;
    }
    own = static_cast<int>(consumed % width) * mixed;
  }

  __device__ void Fetch(const GatedDeltaDecodeArgs& args,
                        int column,
                        ChannelInputs<kWidth>& channel) const {
#pragma unroll
    for (int tap = 0; tap < kHeld; ++tap) {
      const int back = taps - 1 - tap;
      channel.x[tap] = 0;
      if (back == 0) channel.x[tap] = static_cast<float>(x[column]);
      if (back > 0) {
        const float was = static_cast<float>(window[entry[tap] + column]);
        channel.x[tap] = consumed >= static_cast<uint32_t>(back) ? was : 0.0F;
      }
    }
    FetchWeights(args.conv_weight + column * taps, taps, channel.weight);
    channel.bias = args.conv_bias == nullptr ? 0.0F : args.conv_bias[column];
  }
  __device__ void Keep(int column) const { window[own + column] = x[column]; }
};

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

// What a thread reads of the ring: a warp has some entries' keys, a thread all
// entries' u of its value.
template <int kKeyDim>
struct RingEntries {
  static constexpr int kEach = kKeyDim / kWarp;

  // Of the warp: the second of two is there where there are more steps than
  // warps.
  static constexpr int kKeys = (kRingSteps + kRingWarps - 1) / kRingWarps;

  float keys[kKeys][kEach];
  float u[kRingHeld];

  // Of the warp's entries.
  __device__ static int Entry(int which) {
    return RingRows<kKeyDim>::Warp() + which * kRingWarps;
  }
  __device__ void FetchKeys(const float* from, int places) {
#pragma unroll
    for (int which = 0; which < kKeys; ++which) {
      const int j = Entry(which);
      if (j < places) LoadKey(from + j * kKeyDim, keys[which]);
    }
  }
  // `from`: the thread's value of the first entry.
  __device__ void FetchValues(const float* from, int value_dim, int places) {
#pragma unroll
    for (int j = 0; j < kRingHeld; ++j) {
      if (j < places) u[j] = from[j * value_dim];
    }
  }
};

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

// q and k of the token, before they are of length one.
template <typename Input, int kWidth, int kKeyDim>
__device__ void PrepareRingKeys(const GatedDeltaDecodeArgs& args,
                                const RingPlace& place,
                                const RingInputs<Input, kWidth>& inputs,
                                RingShared<kKeyDim>& shared) {
  constexpr int kEach = (2 * kKeyDim + kRingThreads - 1) / kRingThreads;
  const int keys = args.key_heads * kKeyDim;
  ChannelInputs<kWidth> channels[kEach];
#pragma unroll
  for (int each = 0; each < kEach; ++each) {
    const int c = each * kRingThreads + static_cast<int>(threadIdx.x);
    if (c >= 2 * kKeyDim) break;
    const int key = place.key_head * kKeyDim + c % kKeyDim;
    const int column = c < kKeyDim ? key : keys + key;
    inputs.Fetch(args, column, channels[each]);
    if (place.has_keys) inputs.Keep(column);
  }
#pragma unroll
  for (int each = 0; each < kEach; ++each) {
    const int c = each * kRingThreads + static_cast<int>(threadIdx.x);
    if (c >= 2 * kKeyDim) break;
    KeepChannel<kKeyDim>(c, Convolved(channels[each]), shared);
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

// The warp's entries' keys, and in the last place k, with k and q. At a fold
// the keys are kept.
template <int kKeyDim>
__device__ void MeetKeys(const RingEntries<kKeyDim>& entries,
                         int held,
                         bool is_fold,
                         float2 scale,
                         RingShared<kKeyDim>& shared) {
  const OwnKeys<kKeyDim> own(shared, scale);
#pragma unroll
  for (int which = 0; which < entries.kKeys; ++which) {
    const int j = entries.Entry(which);
    if (j != kRingHeld && j >= held) continue;
    float key[OwnKeys<kKeyDim>::kEach];
#pragma unroll
    for (int i = 0; i < own.kEach; ++i) {
      key[i] = j == kRingHeld ? own.k[i] : entries.keys[which][i];
    }
    if (is_fold && j != kRingHeld) StoreKey(key, shared.keys[j]);
    const float2 met = own.Meet(key);
    if (RingRows<kKeyDim>::Lane() == 0) shared.met[j] = met;
  }
}

// The same of entries in shared memory, by kWarps warps.
template <int kKeyDim, int kWarps, typename Shared>
__device__ void MeetEntries(int held, float2 scale, Shared& shared) {
  const OwnKeys<kKeyDim> own(shared, scale);
  for (int j = RingRows<kKeyDim>::Warp(); j < kRingSteps; j += kWarps) {
    if (j != kRingHeld && j >= held) continue;
    float key[OwnKeys<kKeyDim>::kEach];
    if (j == kRingHeld) {
#pragma unroll
      for (int i = 0; i < own.kEach; ++i) key[i] = own.k[i];
    } else {
      LoadKey(shared.keys[j], key);
    }
    const float2 met = own.Meet(key);
    if (RingRows<kKeyDim>::Lane() == 0) shared.met[j] = met;
  }
}

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

// Of the thread's value; at a fold the entries are kept for the rows.
template <int kKeyDim>
__device__ void MeetValues(const RingEntries<kKeyDim>& entries,
                           int held,
                           bool is_fold,
                           int head,
                           float v,
                           RingShared<kKeyDim>& shared) {
  const float(&rest)[kRingSteps] = shared.rest[head];
  RingSums sums;
#pragma unroll
  for (int j = 0; j < kRingHeld; ++j) {
    if (j >= held) break;
    const float w = sums.Add(rest[j], entries.u[j], shared.met[j]);
    if (is_fold) shared.entries[j][threadIdx.x] = w;
  }
  shared.values[threadIdx.x] =
      sums.Value(v, rest[kRingHeld], shared.beta[head]);
}

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

// The squares of the head's outputs: groups of 16 in the order of the values,
// however the head is cut. `group`: the head's first among the block's.
template <int kKeyDim>
__device__ float SquaresOfHead(const RingPlan& plan,
                               int group,
                               int value_dim,
                               const RingShared<kKeyDim>& shared) {
  const int lane = static_cast<int>(threadIdx.x) % kWarp;
  float squares = 0;
#if __CUDA_ARCH__ >= 900
  if (plan.parts > 1) {
    namespace groups = cooperative_groups;
    const groups::cluster_group cluster = groups::this_cluster();
    cluster.sync();
    const int each = plan.values / kSquaresGroup;
    if (lane * kSquaresGroup < value_dim) {
      squares =
          cluster.map_shared_rank(shared.o_squares, lane / each)[lane % each];
    }
    // No block may end while another reads its squares.
    cluster.sync();
    return SumOverLanes<kWarp>(squares);
  }
#endif
  __syncthreads();
  if (lane * kSquaresGroup < value_dim) {
    squares = shared.o_squares[group + lane];
  }
  return SumOverLanes<kWarp>(squares);
}

}  // namespace weir::engine
