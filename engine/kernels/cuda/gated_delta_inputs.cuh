// SPDX-License-Identifier: Apache-2.0
//
// What Gated DeltaNet's decode kernels read of a token, and its convolution.
//
// Threads: plain functions.
#pragma once

#include <cstdint>

#include "engine/kernels/cuda/gated_delta_decode.h"
#include "engine/kernels/cuda/rounding.cuh"

namespace weir::engine {

inline constexpr float kLog2E = 1.44269504088896340736F;
// What keeps the norm of q and k from zero, in every checkpoint.
inline constexpr float kHeadNormEps = 1e-6F;
inline constexpr int kWarp = 32;
// Values whose squares are summed together; a warp has one number of each.
inline constexpr int kSquaresGroup = 16;
inline constexpr int kValuesMax = kWarp * kSquaresGroup;

// Without the care that exp and division take of denormal numbers.
__device__ inline float SigmoidOf(float x) {
  float y;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x * -kLog2E));
  asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(1.0F + y));
  return y;
}
__device__ inline float SiluOf(float x) { return x * SigmoidOf(x); }
__device__ inline float SoftplusOf(float x) {
  return x > 20.0F ? x : log1pf(expf(x));
}

// Rows of so many tokens are left to another launch.
struct LeftOut {
  int32_t tokens_min = 0;
  int32_t tokens_max = -1;

  __host__ __device__ bool Has(int32_t tokens) const {
    return tokens >= tokens_min && tokens <= tokens_max;
  }
};

// One block's part of a row: a tile of a head's values.
struct TilePlace {
  int32_t slot;
  uint32_t consumed;  // tokens of the slot before the row
  int64_t first;      // token of the row
  int32_t tokens;
  int32_t head;
  int32_t key_head;
  int32_t first_value;  // of the head
  int32_t values;       // in the tile
  int value;            // the tile's first of all heads'
  int mixed;            // columns of q, k and v
  // Of the head, and of value threadIdx.x of the tile.
  float log2_rate;
  float dt_bias;
  float norm_weight;
};

// Of the numbers of a slot's state from the rows of value `value` on.
__device__ inline RoundingKey KeyOf(const GatedDeltaDecodeArgs& args,
                                    uint32_t consumed,
                                    int value) {
  const RoundingKey key = {RoundingSeed(args.rounding_seed, consumed)};
  return key.From(static_cast<uint32_t>(value) *
                  static_cast<uint32_t>(args.key_dim));
}

// Channel c of the block's own: q, then k, then the tile's values; as a column
// of the projections.
template <int kKeyDim>
__device__ int ColumnOf(const GatedDeltaDecodeArgs& args,
                        const TilePlace& place,
                        int c) {
  const int keys = args.key_heads * kKeyDim;
  const int key = place.key_head * kKeyDim;
  if (c < kKeyDim) return key + c;
  if (c < 2 * kKeyDim) return keys + key + c - kKeyDim;
  return 2 * keys + place.value + c - 2 * kKeyDim;
}

// The number of the convolution's taps, which a kernel may know.
inline constexpr int kTapsMax = 8;
template <int kWidth>
__device__ int Taps(const GatedDeltaDecodeArgs& args) {
  return kWidth > 0 ? kWidth : args.conv_width;
}

// What the convolution of one channel reads, before any of it is needed: so
// that all of a block's loads are on their way at once.
template <int kWidth>
struct ChannelInputs {
  static constexpr int kHeld = kWidth > 0 ? kWidth : kTapsMax;
  float x[kHeld];  // the oldest first
  float weight[kHeld];
  float bias;
};

// A channel's taps; those from `taps` on are zero.
template <int kHeld>
__device__ void FetchWeights(const float* from, int taps, float (&to)[kHeld]) {
  if constexpr (kHeld == 4) {
    const float4 w = __ldg(reinterpret_cast<const float4*>(from));
    to[0] = w.x;
    to[1] = w.y;
    to[2] = w.z;
    to[3] = w.w;
  } else {
#pragma unroll
    for (int tap = 0; tap < kHeld; ++tap) {
      to[tap] = tap < taps ? from[tap] : 0.0F;
    }
  }
}

// Of token i of the row: its own and those before it, from the row or, before
// the row's first, from the window.
template <typename Input, int kWidth>
__device__ ChannelInputs<kWidth> FetchChannel(const GatedDeltaDecodeArgs& args,
                                              const TilePlace& place,
                                              int i,
                                              int column) {
  ChannelInputs<kWidth> channel;
  const int taps = Taps<kWidth>(args);
  const auto* row = static_cast<const Input*>(args.projected) +
                    place.first * args.projected_stride + column;
  const auto* window = static_cast<const Input*>(args.window) +
                       place.slot * args.window_stride + column;
#pragma unroll
  for (int tap = 0; tap < ChannelInputs<kWidth>::kHeld; ++tap) {
    channel.x[tap] = 0;
    if (tap >= taps) continue;
    const int t = i - (taps - 1 - tap);
    const bool is_old = t < 0;
    const uint32_t entry = (place.consumed + static_cast<uint32_t>(t)) %
                           static_cast<uint32_t>(taps);
    const bool was = !is_old || place.consumed >= static_cast<uint32_t>(-t);
    const Input* p =
        is_old ? window + entry * place.mixed : row + t * args.projected_stride;
    if (was) channel.x[tap] = static_cast<float>(*p);
  }
  FetchWeights(args.conv_weight + column * taps, taps, channel.weight);
  channel.bias = args.conv_bias == nullptr ? 0.0F : args.conv_bias[column];
  return channel;
}

template <int kWidth>
__device__ float Convolved(const ChannelInputs<kWidth>& channel) {
  float sum = channel.bias;
#pragma unroll
  for (int tap = 0; tap < ChannelInputs<kWidth>::kHeld; ++tap) {
    sum = fmaf(channel.weight[tap], channel.x[tap], sum);
  }
  return SiluOf(sum);
}

}  // namespace weir::engine
