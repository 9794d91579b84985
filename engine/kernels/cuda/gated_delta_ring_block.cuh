// SPDX-License-Identifier: Apache-2.0
//
// How a block of gated_delta_ring.cu reads its token's inputs and its ring's
// entries, and reduces them to a few numbers a value.
//
// Threads: all of a block call each function together.
#pragma once

#include <cstdint>

#include "engine/kernels/cuda/gated_delta_ring_place.cuh"
#include "engine/kernels/cuda/gated_delta_ring_token.cuh"
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

}  // namespace weir::engine
