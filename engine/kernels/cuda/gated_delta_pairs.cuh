// SPDX-License-Identifier: Apache-2.0
//
// Neighbouring channels of a piece of tokens: what is read of them, and their
// convolution. gated_delta_together.cu, gated_delta_ring.cu.
//
// Threads: plain functions, but for PieceBarrier.
#pragma once

#include <cuda_bf16.h>

#include <cstdint>

#include "engine/kernels/cuda/gated_delta_inputs.cuh"
#include "engine/kernels/cuda/gated_delta_units.cuh"

namespace weir::engine {

inline constexpr int kPieceThreads = 256;  // that prepare
inline constexpr int kPieceTaps = 4;

struct PiecePlace {
  int32_t slot;
  uint32_t consumed;  // before the row
  int64_t first;      // the row's first token
  int32_t tokens;     // of the row
  int32_t begin;      // of the row's, the piece's first
  int32_t count;
  int32_t head;  // the unit's first
  int32_t key_head;
};

// A head's values and what parts them from the next token's, so that reading a
// few values of several tokens spreads over the banks.
__host__ __device__ constexpr int ValueStride(int value_dim) {
  return (value_dim + kSlabRows - 1) / kSlabRows * kSlabRows + 4;
}

// Of the threads that prepare.
__device__ inline void PieceBarrier() {
  asm volatile("bar.sync 1, %0;" ::"n"(kPieceThreads) : "memory");
}

// Two neighbouring numbers as they lie in memory.
template <typename Number>
struct PairIn;
template <>
struct PairIn<float> {
  using Type = float2;
};
template <>
struct PairIn<__nv_bfloat16> {
  using Type = __nv_bfloat162;
};
template <typename Number>
using Pair = typename PairIn<Number>::Type;

template <typename Number>
__device__ const Pair<Number>& PairAt(const Number* p) {
  return *reinterpret_cast<const Pair<Number>*>(p);
}
template <typename Number>
__device__ Pair<Number>& PairAt(Number* p) {
  return *reinterpret_cast<Pair<Number>*>(p);
}
__device__ inline float2 FromPair(float2 x) { return x; }
__device__ inline float2 FromPair(__nv_bfloat162 x) {
  return __bfloat1622float2(x);
}
__device__ inline void StorePair(float* p, float2 x) { PairAt(p) = x; }
__device__ inline void StorePair(__nv_bfloat16* p, float2 x) {
  PairAt(p) = __float22bfloat162_rn(x);
}

// What the convolution over two neighbouring channels reads, the oldest first;
// tokens beyond the piece repeat its last.
template <typename Input, int kTokens>
struct PairInputs {
  static constexpr int kBefore = kPieceTaps - 1;

  Pair<Input> x[kTokens + kBefore];
};

template <typename Input, int kTokens>
__device__ void FetchPair(const GatedDeltaDecodeArgs& args,
                          const PiecePlace& place,
                          int column,
                          PairInputs<Input, kTokens>& to) {
  constexpr int kBefore = PairInputs<Input, kTokens>::kBefore;
  const int mixed =
      2 * args.key_heads * args.key_dim + args.heads * args.value_dim;
  const int64_t stride = args.projected_stride;
  const Input* row = static_cast<const Input*>(args.projected) +
                     (place.first + place.begin) * stride + column;
#pragma unroll
  for (int e = 0; e < kTokens; ++e) {
    to.x[kBefore + e] = PairAt(row + min(e, place.count - 1) * stride);
  }
#pragma unroll
  for (int back = 1; back <= kBefore; ++back) {
    Pair<Input>& x = to.x[kBefore - back];
    if (place.begin > 0) {
      x = PairAt(row - back * stride);
    } else {
      const Input* window = static_cast<const Input*>(args.window) +
                            place.slot * args.window_stride + column;
      x = {};
      if (place.consumed >= static_cast<uint32_t>(back)) {
        x = PairAt(window + (place.consumed - back) % kPieceTaps * mixed);
      }
    }
  }
}

// to(token, y) takes each token's.
template <typename Input, int kTokens, typename To>
__device__ void ConvolvePair(const GatedDeltaDecodeArgs& args,
                             const PairInputs<Input, kTokens>& inputs,
                             int column,
                             int count,
                             To to) {
  float w[2][kPieceTaps];
#pragma unroll
  for (int i = 0; i < 2; ++i) {
    FetchWeights(
        args.conv_weight + (column + i) * kPieceTaps, kPieceTaps, w[i]);
  }
  float2 bias = make_float2(0, 0);
  if (args.conv_bias != nullptr) {
    bias = make_float2(args.conv_bias[column], args.conv_bias[column + 1]);
  }
#pragma unroll
  for (int e = 0; e < kTokens; ++e) {
    float2 y = bias;
#pragma unroll
    for (int tap = 0; tap < kPieceTaps; ++tap) {
      const float2 x = FromPair(inputs.x[e + tap]);
      y.x = fmaf(w[0][tap], x.x, y.x);
      y.y = fmaf(w[1][tap], x.y, y.y);
    }
    y = make_float2(SiluOf(y.x), SiluOf(y.y));
    to(e, e < count ? y : make_float2(0, 0));
  }
}

// Leaves the row's last inputs of the two channels in the window, those of them
// that are the piece's.
template <typename Input, int kTokens>
__device__ void KeepPair(const GatedDeltaDecodeArgs& args,
                         const PiecePlace& place,
                         int column,
                         const PairInputs<Input, kTokens>& inputs) {
  const int mixed =
      2 * args.key_heads * args.key_dim + args.heads * args.value_dim;
  Input* window = static_cast<Input*>(args.window) +
                  place.slot * args.window_stride + column;
  Input* entries[kPieceTaps];
#pragma unroll
  for (int i = 0; i < kPieceTaps; ++i) {
    entries[i] =
        window + (place.consumed + place.begin + i) % kPieceTaps * mixed;
  }
  const int first = place.tokens - kPieceTaps - place.begin;
#pragma unroll
  for (int e = 0; e < kTokens; ++e) {
    if (e < first || e >= place.count) continue;
    PairAt(entries[e % kPieceTaps]) =
        inputs.x[PairInputs<Input, kTokens>::kBefore + e];
  }
}

}  // namespace weir::engine
