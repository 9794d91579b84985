// SPDX-License-Identifier: Apache-2.0
//
// What a warp has of a unit's token, and reads of it. It has queries, keys or
// values: lane l channels 2 l and 2 l + 1 of each span of 64.
// gated_delta_stream.cu.
//
// Threads: all of a warp call each function together.
#pragma once

#include <cstdint>

#include "engine/kernels/cuda/gated_delta_pairs.cuh"
#include "engine/kernels/cuda/gated_delta_run.cuh"

namespace weir::engine {

inline constexpr int kSpan = 2 * kWarp;

// Which unit, and what a warp has of it.
struct UnitPart {
  int32_t slot;
  uint32_t consumed;
  int64_t token;
  int32_t head;  // the first
  int32_t warp;  // of kPrepareWarps

  __device__ static UnitPart Of(const UnitCursor& at,
                                const UnitPlan& plan,
                                const UnitRows& rows,
                                int warp) {
    return {rows.slots[at.row],
            rows.consumed[at.row],
            rows.first[at.row],
            at.FirstHead(plan),
            warp};
  }
  __device__ bool IsOfKeys() const { return warp < 2; }
  // The first of a lane's two channels of a span.
  __device__ int Channel(int span) const {
    const int lane = static_cast<int>(threadIdx.x) % kWarp;
    return kSpan * (IsOfKeys() ? span : 2 * span + warp - 2) + 2 * lane;
  }
  template <int kKeyDim>
  __device__ int Channels(const GatedDeltaDecodeArgs& args,
                          const UnitPlan& plan) const {
    return IsOfKeys() ? kKeyDim : plan.unit_heads * args.value_dim;
  }
  // That of channel 0.
  template <int kKeyDim>
  __device__ int Column(const GatedDeltaDecodeArgs& args) const {
    const int keys = args.key_heads * kKeyDim;
    if (!IsOfKeys()) return 2 * keys + head * args.value_dim;
    return warp * keys + head / (args.heads / args.key_heads) * kKeyDim;
  }
};

// What a lane reads of a unit, a unit ahead of its use.
template <typename Input, int kKeyDim>
struct UnitInputs {
  static constexpr int kSpans = kKeyDim <= 128 ? 2 : 4;

  PairInputs<Input, 1> x[kSpans];
  Pair<Input> z[kSpans];
  // Of a head's gates.
  Input a;
  Input b;
  float log2_rate;
  float dt_bias;
};

template <typename Input, int kKeyDim>
__device__ void FetchUnit(const GatedDeltaDecodeArgs& args,
                          const UnitPlan& plan,
                          const UnitPart& part,
                          UnitInputs<Input, kKeyDim>& to) {
  const int mixed = 2 * args.key_heads * kKeyDim + args.heads * args.value_dim;
  const auto* x = static_cast<const Input*>(args.projected) +
                  part.token * args.projected_stride;
  const int column = part.Column<kKeyDim>(args);
  const auto* window = static_cast<const Input*>(args.window) +
                       part.slot * args.window_stride + column;
  const int channels = part.Channels<kKeyDim>(args, plan);
#pragma unroll
  for (int span = 0; span < to.kSpans; ++span) {
    const int c = part.Channel(span);
    if (c >= channels) break;
#pragma unroll
    for (int tap = 0; tap < kPieceTaps - 1; ++tap) {
      const uint32_t entry = (part.consumed + tap + 1) % kPieceTaps;
      to.x[span].x[tap] = Pair<Input>();
      if (part.consumed >= static_cast<uint32_t>(kPieceTaps - 1 - tap)) {
        to.x[span].x[tap] =
            PairAt(window + static_cast<int>(entry) * mixed + c);
      }
    }
    to.x[span].x[kPieceTaps - 1] = PairAt(x + column + c);
    to.z[span] = Pair<Input>();
    if (!part.IsOfKeys() && args.gate != GateKind::kNone) {
      to.z[span] = PairAt(x + args.z_column + part.head * args.value_dim + c);
    }
  }
  const int lane = static_cast<int>(threadIdx.x) % kWarp;
  if (part.warp != kPrepareWarps - 1 || lane >= plan.unit_heads) return;
  const int head = part.head + lane;
  to.a = x[args.a_column + head];
  to.b = x[args.b_column + head];
  to.log2_rate = args.log2_rate[head];
  to.dt_bias = args.dt_bias[head];
}

// Leaves the token's inputs in the window, queries' and keys' by the first of
// the units that share them.
template <typename Input, int kKeyDim>
__device__ void KeepInputs(const GatedDeltaDecodeArgs& args,
                           const UnitPlan& plan,
                           const UnitPart& part,
                           const UnitInputs<Input, kKeyDim>& inputs) {
  const int sharing = args.heads / args.key_heads;
  if (part.IsOfKeys() && part.head % sharing != 0) return;
  const int mixed = 2 * args.key_heads * kKeyDim + args.heads * args.value_dim;
  auto* window = static_cast<Input*>(args.window) +
                 part.slot * args.window_stride +
                 static_cast<int>(part.consumed % kPieceTaps) * mixed +
                 part.Column<kKeyDim>(args);
  const int channels = part.Channels<kKeyDim>(args, plan);
#pragma unroll
  for (int span = 0; span < inputs.kSpans; ++span) {
    const int c = part.Channel(span);
    if (c >= channels) break;
    PairAt(window + c) = inputs.x[span].x[kPieceTaps - 1];
  }
}

}  // namespace weir::engine
