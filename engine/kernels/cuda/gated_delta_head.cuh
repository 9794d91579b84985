// SPDX-License-Identifier: Apache-2.0
//
// What stands around the steps of a unit's states: its token is prepared, its
// outputs are finished. Sums are taken in the order of the forms whose threads
// have a channel each. gated_delta_stream.cu.
//
// Threads: all of a warp call each function together.
#pragma once

#include <cstdint>

#include "engine/kernels/cuda/gated_delta_part.cuh"
#include "engine/kernels/cuda/gated_delta_run.cuh"
#include "engine/kernels/cuda/token_step.cuh"

namespace weir::engine {

// The sums of squares of the span's first and second 32 numbers, in the order
// of a warp that has one of them a lane.
__device__ inline float2 SquaresOfSpan(float2 y) {
  float even = __fmul_rn(y.x, y.x);
  float odd = __fmul_rn(y.y, y.y);
#pragma unroll
  for (int step = kWarp / 4; step > 0; step /= 2) {
    even += __shfl_xor_sync(0xffffffffU, even, step);
    odd += __shfl_xor_sync(0xffffffffU, odd, step);
  }
  const float sum = even + odd;
  return make_float2(__shfl_sync(0xffffffffU, sum, 0),
                     __shfl_sync(0xffffffffU, sum, kWarp / 2));
}

__device__ inline float GateOf(GateKind gate, float z) {
  if (gate == GateKind::kSilu) return SiluOf(z);
  return gate == GateKind::kSigmoid ? SigmoidOf(z) : 1.0F;
}

template <typename Input, int kKeyDim>
__device__ void PrepareUnit(const GatedDeltaDecodeArgs& args,
                            const UnitPlan& plan,
                            const UnitPart& part,
                            const UnitInputs<Input, kKeyDim>& inputs,
                            StreamUnit<kKeyDim>& unit) {
  constexpr int kSpans = UnitInputs<Input, kKeyDim>::kSpans;
  const int lane = static_cast<int>(threadIdx.x) % kWarp;
  const int column = part.Column<kKeyDim>(args);
  const int channels = part.Channels<kKeyDim>(args, plan);
  float2 y[kSpans];
#pragma unroll
  for (int span = 0; span < kSpans; ++span) {
    const int c = part.Channel(span);
    if (c >= channels) break;
    ConvolvePair(
        args, inputs.x[span], column + c, 1, [&](int, float2 of_token) {
          y[span] = of_token;
        });
  }
  if (part.IsOfKeys()) {
    constexpr int kKeySpans = kKeyDim / kSpan;
    float sum = kHeadNormEps;
#pragma unroll
    for (int span = 0; span < kKeySpans; ++span) {
      const float2 squares = SquaresOfSpan(y[span]);
      sum += squares.x;
      sum += squares.y;
    }
    const float root = rsqrtf(sum);
    const float scale =
        part.warp == 0 ? 1.0F / sqrtf(static_cast<float>(kKeyDim)) : 1.0F;
    float* to = part.warp == 0 ? unit.q : unit.k;
#pragma unroll
    for (int span = 0; span < kKeySpans; ++span) {
      StorePair(
          to + part.Channel(span),
          make_float2(y[span].x * scale * root, y[span].y * scale * root));
    }
    if (part.warp == 0) {
      if (lane == 0) unit.token = part.token;
      if (lane == 0) unit.head = part.head;
      return;
    }
    const RoundingKey key = {RoundingSeed(args.rounding_seed, part.consumed)};
    for (int pair = lane; pair < kKeyDim / 2; pair += kWarp) {
      unit.chances[pair] = key.ColumnBits(2 * pair);
    }
    return;
  }
#pragma unroll
  for (int span = 0; span < kSpans; ++span) {
    const int c = part.Channel(span);
    if (c >= channels) break;
    const float2 z = FromPair(inputs.z[span]);
    StorePair(unit.values + c, y[span]);
    StorePair(unit.gates + c,
              make_float2(GateOf(args.gate, z.x), GateOf(args.gate, z.y)));
  }
  if (part.warp == kPrepareWarps - 1 && lane < plan.unit_heads) {
    const float a = static_cast<float>(inputs.a);
    unit.decay[lane] = exp2f(inputs.log2_rate * SoftplusOf(a + inputs.dt_bias));
    unit.beta[lane] = args.beta_scale * SigmoidOf(static_cast<float>(inputs.b));
  }
}

// A head's out; the sum of the norm as SumOfHead takes it.
template <typename Input, int kKeyDim>
__device__ void FinishHead(const GatedDeltaDecodeArgs& args,
                           const StreamUnit<kKeyDim>& unit,
                           int head,
                           const float* norm_weight) {
  constexpr int kSpans = StreamUnit<kKeyDim>::kValues / kSpan;
  const int lane = static_cast<int>(threadIdx.x) % kWarp;
  const float* const o = unit.values + head * args.value_dim;
  const float* const gates = unit.gates + head * args.value_dim;
  float2 x[kSpans];
  float squares[8] = {};
#pragma unroll
  for (int span = 0; span < kSpans; ++span) {
    const int c = kSpan * span + 2 * lane;
    x[span] = c < args.value_dim ? PairAt(o + c) : make_float2(0, 0);
    float even = __fmul_rn(x[span].x, x[span].x);
    float odd = __fmul_rn(x[span].y, x[span].y);
#pragma unroll
    for (int step = kSquaresGroup / 4; step > 0; step /= 2) {
      even += __shfl_xor_sync(0xffffffffU, even, step);
      odd += __shfl_xor_sync(0xffffffffU, odd, step);
    }
    squares[span] = even + odd;
  }
  // Of 32 groups of values, four a span: those 16 apart first.
#pragma unroll
  for (int step = 4; step > 0; step /= 2) {
#pragma unroll
    for (int span = 0; span < step; ++span) {
      squares[span] += squares[span + step];
    }
  }
  float total = squares[0];
  total += __shfl_xor_sync(0xffffffffU, total, 16);
  total += __shfl_xor_sync(0xffffffffU, total, 8);
  const float scale =
      rsqrtf(total / static_cast<float>(args.value_dim) + args.norm_eps);
  Input* out = static_cast<Input*>(args.out) + unit.token * args.out_stride +
               (unit.head + head) * args.value_dim;
#pragma unroll
  for (int span = 0; span < kSpans; ++span) {
    const int c = kSpan * span + 2 * lane;
    if (c >= args.value_dim) break;
    const float2 weight = PairAt(norm_weight + c);
    const float2 gate = PairAt(gates + c);
    StorePair(out + c,
              make_float2(x[span].x * scale * weight.x * gate.x,
                          x[span].y * scale * weight.y * gate.y));
  }
}

}  // namespace weir::engine
