// SPDX-License-Identifier: Apache-2.0
//
// A unit's outputs: norm and gate. A warp takes rows, each a token of a head.
// gated_delta_together.cu, gated_delta_ring.cu.
//
// Threads: all kPieceThreads of a group call each function together.
#pragma once

#include <cstdint>

#include "engine/kernels/cuda/gated_delta_pairs.cuh"
#include "engine/kernels/cuda/token_step.cuh"

namespace weir::engine {

// Four neighbouring numbers as they lie in memory.
template <typename Number>
struct Quad {
  Pair<Number> x;
  Pair<Number> y;
};
template <typename Number>
__device__ Quad<Number> LoadQuad(const Number* p) {
  Quad<Number> quad;
  if constexpr (sizeof(Number) == 4) {
    const float4 x = *reinterpret_cast<const float4*>(p);
    quad.x = make_float2(x.x, x.y);
    quad.y = make_float2(x.z, x.w);
  } else {
    const uint2 x = *reinterpret_cast<const uint2*>(p);
    quad.x = *reinterpret_cast<const Pair<Number>*>(&x.x);
    quad.y = *reinterpret_cast<const Pair<Number>*>(&x.y);
  }
  return quad;
}
__device__ inline void StoreQuad(float* p, float2 x, float2 y) {
  *reinterpret_cast<float4*>(p) = make_float4(x.x, x.y, y.x, y.y);
}
__device__ inline void StoreQuad(__nv_bfloat16* p, float2 x, float2 y) {
  __nv_bfloat162 both[2] = {__float22bfloat162_rn(x), __float22bfloat162_rn(y)};
  *reinterpret_cast<uint2*>(p) = *reinterpret_cast<const uint2*>(both);
}

// Some of a warp's rows, taken side by side.
template <typename Input, int kKeyDim, int kTokens>
struct FinishRows {
  static constexpr int kRows = kKeyDim <= 128 ? 4 : 2;
  static constexpr int kEach = UnitValuesMax(kKeyDim) / kWarp / 4;
  static constexpr int kWarps = kPieceThreads / kWarp;

  int first;                    // of the warp's
  Quad<Input> z[kRows][kEach];  // read ahead of their use

  __device__ int Index(int row) const {
    return (first + row) * kWarps + static_cast<int>(threadIdx.x) / kWarp;
  }
  __device__ int Head(int row) const { return Index(row) / kTokens; }
  __device__ int Token(int row) const { return Index(row) % kTokens; }
  __device__ static int Value(int each) {
    return 4 * (each * kWarp + static_cast<int>(threadIdx.x) % kWarp);
  }
  __device__ bool Has(const GatedDeltaDecodeArgs& args,
                      const UnitPlan& plan,
                      const PiecePlace& place,
                      int row,
                      int each) const {
    return Head(row) < plan.unit_heads && Token(row) < place.count &&
           Value(each) < args.value_dim;
  }

  __device__ void Fetch(const GatedDeltaDecodeArgs& args,
                        const UnitPlan& plan,
                        const PiecePlace& place) {
    if (args.gate == GateKind::kNone) return;
#pragma unroll
    for (int row = 0; row < kRows; ++row) {
      const Input* from =
          static_cast<const Input*>(args.projected) +
          (place.first + place.begin + Token(row)) * args.projected_stride +
          args.z_column + (place.head + Head(row)) * args.value_dim;
#pragma unroll
      for (int each = 0; each < kEach; ++each) {
        if (Has(args, plan, place, row, each)) {
          z[row][each] = LoadQuad(from + Value(each));
        }
      }
    }
  }

  __device__ float2 Gated(const GatedDeltaDecodeArgs& args,
                          float2 y,
                          Pair<Input> gate) const {
    if (args.gate == GateKind::kNone) return y;
    const float2 x = FromPair(gate);
    y = make_float2(y.x * SigmoidOf(x.x), y.y * SigmoidOf(x.y));
    if (args.gate == GateKind::kSigmoid) return y;
    return make_float2(y.x * x.x, y.y * x.y);
  }

  // values [heads of the unit][kTokens][ValueStride], norm_weight [V] lie in
  // shared memory.
  __device__ void Finish(const GatedDeltaDecodeArgs& args,
                         const UnitPlan& plan,
                         const PiecePlace& place,
                         const float* values,
                         const float* norm_weight) const {
    const int stride = ValueStride(args.value_dim);
    float4 x[kRows][kEach];
    float sums[kRows];
#pragma unroll
    for (int row = 0; row < kRows; ++row) {
      sums[row] = 0;
#pragma unroll
      for (int each = 0; each < kEach; ++each) {
        float4& o = x[row][each];
        o = make_float4(0, 0, 0, 0);
        if (Has(args, plan, place, row, each)) {
          o = *reinterpret_cast<const float4*>(values + Index(row) * stride +
                                               Value(each));
        }
        sums[row] = fmaf(o.x, o.x, fmaf(o.y, o.y, sums[row]));
        sums[row] = fmaf(o.z, o.z, fmaf(o.w, o.w, sums[row]));
      }
    }
#pragma unroll
    for (int step = kWarp / 2; step > 0; step /= 2) {
#pragma unroll
      for (int row = 0; row < kRows; ++row) {
        sums[row] += __shfl_xor_sync(0xffffffffU, sums[row], step);
      }
    }
#pragma unroll
    for (int each = 0; each < kEach; ++each) {
      const int v = Value(each);
      if (v >= args.value_dim) break;
      const float4 w = *reinterpret_cast<const float4*>(norm_weight + v);
#pragma unroll
      for (int row = 0; row < kRows; ++row) {
        if (!Has(args, plan, place, row, each)) continue;
        const float scale = rsqrtf(
            sums[row] / static_cast<float>(args.value_dim) + args.norm_eps);
        const float4 o = x[row][each];
        const Quad<Input>& gate = z[row][each];
        Input* out =
            static_cast<Input*>(args.out) +
            (place.first + place.begin + Token(row)) * args.out_stride +
            (place.head + Head(row)) * args.value_dim;
        StoreQuad(out + v,
                  Gated(args,
                        make_float2(o.x * scale * w.x, o.y * scale * w.y),
                        gate.x),
                  Gated(args,
                        make_float2(o.z * scale * w.z, o.w * scale * w.w),
                        gate.y));
      }
    }
  }
};

}  // namespace weir::engine
