// SPDX-License-Identifier: Apache-2.0
//
// What stands around one head's steps for a group of threads: its token is read
// and prepared, its output finished.
// gated_delta_stream.cu.
//
// Threads: all of a group call each function together.
#pragma once

#include <cstdint>

#include "engine/kernels/cuda/gated_delta_inputs.cuh"
#include "engine/kernels/cuda/gated_delta_run.cuh"
#include "engine/kernels/cuda/token_step.cuh"

namespace weir::engine {

// What a thread reads of a head's token, a head ahead of its use. Its first
// channels are of q and k, the others values.
template <int kWidth, int kKeyDim>
struct HeadInputs {
  static constexpr int kEach =
      2 * kKeyDim / kTileThreads > 0 ? 2 * kKeyDim / kTileThreads : 1;

  ChannelInputs<kWidth> keys[kEach];
  ChannelInputs<kWidth> values[kEach];
  float z[kEach];
  // Of the gates, by one thread.
  float a;
  float b;
  float log2_rate;
  float dt_bias;
};

// Heads that share a key come one after another: with_keys is false where the
// head before had the same.
template <typename Input, int kWidth, int kKeyDim>
__device__ void FetchHead(const GatedDeltaDecodeArgs& args,
                          const RowInputs<Input, kWidth>& row,
                          int head,
                          int key_head,
                          bool with_keys,
                          HeadInputs<kWidth, kKeyDim>& to) {
  const int keys = args.key_heads * kKeyDim;
#pragma unroll
  for (int each = 0; each < to.kEach; ++each) {
    const int c = each * kTileThreads + GroupThread();
    if (with_keys && c < 2 * kKeyDim) {
      const int column = key_head * kKeyDim + c % kKeyDim;
      FetchColumn(
          args, row, c < kKeyDim ? column : keys + column, to.keys[each]);
    }
    if (c < args.value_dim) {
      const int value = head * args.value_dim + c;
      FetchColumn(args, row, 2 * keys + value, to.values[each]);
      to.z[each] = args.gate == GateKind::kNone
                       ? 0.0F
                       : static_cast<float>(row.x[args.z_column + value]);
    }
  }
  if (GroupThread() == kTileThreads - 1) {
    to.a = static_cast<float>(row.x[args.a_column + head]);
    to.b = static_cast<float>(row.x[args.b_column + head]);
    to.log2_rate = args.log2_rate[head];
    to.dt_bias = args.dt_bias[head];
  }
}

// Fills shared.q and k, leaves their inputs in the window.
template <typename Input, int kWidth, int kKeyDim>
__device__ void PrepareKeys(const GatedDeltaDecodeArgs& args,
                            const RowInputs<Input, kWidth>& row,
                            int key_head,
                            bool is_writer,
                            const HeadInputs<kWidth, kKeyDim>& head,
                            GroupShared<kKeyDim>& shared) {
  const int keys = args.key_heads * kKeyDim;
  float y[head.kEach];
#pragma unroll
  for (int each = 0; each < head.kEach; ++each) {
    const int c = each * kTileThreads + GroupThread();
    if (c >= 2 * kKeyDim) break;
    const int column = key_head * kKeyDim + c % kKeyDim;
    if (is_writer) {
      row.window[row.entry[kWidth - 1] +
                 (c < kKeyDim ? column : keys + column)] =
          static_cast<Input>(head.keys[each].x[kWidth - 1]);
    }
    y[each] = Convolved(head.keys[each]);
    const float sum = SumOverLanes<kWarp>(y[each] * y[each]);
    if (c % kWarp == 0) shared.squares[c / kWarp] = sum;
  }
  GroupBarrier();
#pragma unroll
  for (int each = 0; each < head.kEach; ++each) {
    const int c = each * kTileThreads + GroupThread();
    if (c >= 2 * kKeyDim) break;
    const bool is_query = c < kKeyDim;
    float sum = kHeadNormEps;
#pragma unroll
    for (int w = 0; w < kKeyDim / kWarp; ++w) {
      sum += shared.squares[(is_query ? 0 : kKeyDim / kWarp) + w];
    }
    const float scale =
        is_query ? 1.0F / sqrtf(static_cast<float>(kKeyDim)) : 1.0F;
    float* to = is_query ? &shared.q[c] : &shared.k[c - kKeyDim];
    *to = y[each] * scale * rsqrtf(sum);
  }
}

// Fills shared.v and the gates, leaves the values' inputs in the window.
template <typename Input, int kWidth, int kKeyDim>
__device__ void PrepareValues(const GatedDeltaDecodeArgs& args,
                              const RowInputs<Input, kWidth>& row,
                              int head,
                              const HeadInputs<kWidth, kKeyDim>& inputs,
                              GroupShared<kKeyDim>& shared) {
  const int first = 2 * args.key_heads * kKeyDim + head * args.value_dim;
#pragma unroll
  for (int each = 0; each < inputs.kEach; ++each) {
    const int c = each * kTileThreads + GroupThread();
    if (c >= args.value_dim) break;
    row.window[row.entry[kWidth - 1] + first + c] =
        static_cast<Input>(inputs.values[each].x[kWidth - 1]);
    shared.v[c] = Convolved(inputs.values[each]);
  }
  if (GroupThread() == kTileThreads - 1) {
    shared.decay =
        exp2f(inputs.log2_rate * SoftplusOf(inputs.a + inputs.dt_bias));
    shared.beta = args.beta_scale * SigmoidOf(inputs.b);
  }
}

// The head's out from shared.o, the sum of the norm as SumOfHead takes it.
template <typename Input, int kKeyDim, int kEach>
__device__ void FinishHead(const GatedDeltaDecodeArgs& args,
                           int64_t token,
                           int head,
                           const float (&z)[kEach],
                           GroupShared<kKeyDim>& shared) {
#pragma unroll
  for (int each = 0; each < kEach; ++each) {
    const int r = each * kTileThreads + GroupThread();
    const float o = r < args.value_dim ? shared.o[r] : 0.0F;
    const float sum = SumOverLanes<kSquaresGroup>(o * o);
    if (r % kSquaresGroup == 0) shared.o_squares[r / kSquaresGroup] = sum;
  }
  GroupBarrier();
  const int group = GroupThread() % kWarp;
  const float total = SumOverLanes<kWarp>(
      group * kSquaresGroup < args.value_dim ? shared.o_squares[group] : 0.0F);
  const float scale =
      rsqrtf(total / static_cast<float>(args.value_dim) + args.norm_eps);
  Input* out = static_cast<Input*>(args.out) + token * args.out_stride +
               head * args.value_dim;
#pragma unroll
  for (int each = 0; each < kEach; ++each) {
    const int r = each * kTileThreads + GroupThread();
    if (r >= args.value_dim) break;
    float y = shared.o[r] * scale * args.norm_weight[r];
    if (args.gate == GateKind::kSilu) y *= SiluOf(z[each]);
    if (args.gate == GateKind::kSigmoid) y *= SigmoidOf(z[each]);
    out[r] = static_cast<Input>(y);
  }
}

}  // namespace weir::engine
