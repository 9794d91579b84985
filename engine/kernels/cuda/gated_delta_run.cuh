// SPDX-License-Identifier: Apache-2.0
//
// A group of threads, its shared memory, and its run of heads: in which order
// it goes over them, and where their states and inputs lie.
// gated_delta_stream.cu.
//
// Threads: kTileThreads of a block are a group.
#pragma once

#include <cstdint>

#include "engine/kernels/cuda/bulk_transfer.cuh"
#include "engine/kernels/cuda/gated_delta_inputs.cuh"
#include "engine/kernels/cuda/state_tile.cuh"

namespace weir::engine {

inline constexpr int kStages = 3;
inline constexpr int kStageBytes = 32 << 10;
inline constexpr int kRowsHeld = 64;  // rows of one group's run of heads

template <int kKeyDim>
struct GroupShared {
  static constexpr int kValues = 2 * kKeyDim;  // of a head, at most

  alignas(128) char stages[kStages][kStageBytes];
  alignas(16) float q[kKeyDim];
  alignas(16) float k[kKeyDim];
  float v[kValues];
  float o[kValues];
  float squares[2 * kKeyDim / kWarp];
  float o_squares[kWarp];
  float decay;
  float beta;
  int32_t slots[kRowsHeld];
  uint32_t consumed[kRowsHeld];
  int32_t tokens[kRowsHeld];
  uint64_t loaded[kStages];
};

__device__ inline int GroupThread() {
  return static_cast<int>(threadIdx.x) % kTileThreads;
}

// Of the threads of one group.
__device__ inline void GroupBarrier() {
  const int group = static_cast<int>(threadIdx.x) / kTileThreads;
  asm volatile("bar.sync %0, %1;" ::"r"(group + 1), "n"(kTileThreads)
               : "memory");
}

// A head of a row, in the order in which a group goes over them. Rows that are
// padding are left out.
struct RowHead {
  int32_t row;  // from the group's first
  int32_t head;
  int32_t left;  // heads from this one to the end of the run

  template <typename Shared>
  __device__ void SkipPadding(const GatedDeltaDecodeArgs& args,
                              const Shared& shared) {
    while (left > 0 && shared.slots[row] < 0) {
      left -= args.heads - head;
      head = 0;
      ++row;
    }
  }
  template <typename Shared>
  __device__ void Advance(const GatedDeltaDecodeArgs& args,
                          const Shared& shared) {
    --left;
    if (++head < args.heads) return;
    head = 0;
    ++row;
    SkipPadding(args, shared);
  }
};

// What all heads of a row have in common.
template <typename Input, int kWidth>
struct RowInputs {
  const Input* x;  // its token's projections
  Input* window;
  // Where the inputs lie in the window, the oldest first; the last is where the
  // token's own goes.
  int entry[kWidth];
  uint32_t consumed;
  int64_t token;
  int32_t slot;

  template <typename Shared>
  __device__ static RowInputs Of(const GatedDeltaDecodeArgs& args,
                                 const Shared& shared,
                                 int32_t row) {
    RowInputs inputs;
    inputs.slot = shared.slots[row];
    inputs.consumed = shared.consumed[row];
    inputs.token = shared.tokens[row];
    inputs.x = static_cast<const Input*>(args.projected) +
               inputs.token * args.projected_stride;
    inputs.window =
        static_cast<Input*>(args.window) + inputs.slot * args.window_stride;
    const int mixed =
        2 * args.key_heads * args.key_dim + args.heads * args.value_dim;
#pragma unroll
    for (int tap = 0; tap < kWidth; ++tap) {
      const uint32_t at = inputs.consumed + tap + 1;
      inputs.entry[tap] = static_cast<int>(at % kWidth) * mixed;
    }
    return inputs;
  }
};

// As FetchChannel, of a row of one token.
template <typename Input, int kWidth>
__device__ void FetchColumn(const GatedDeltaDecodeArgs& args,
                            const RowInputs<Input, kWidth>& row,
                            int column,
                            ChannelInputs<kWidth>& channel) {
#pragma unroll
  for (int tap = 0; tap < kWidth - 1; ++tap) {
    const bool was = row.consumed >= kWidth - 1 - tap;
    channel.x[tap] =
        was ? static_cast<float>(row.window[row.entry[tap] + column]) : 0.0F;
  }
  channel.x[kWidth - 1] = static_cast<float>(row.x[column]);
  FetchWeights(args.conv_weight + column * kWidth, kWidth, channel.weight);
  channel.bias = args.conv_bias == nullptr ? 0.0F : args.conv_bias[column];
}

// Which stage comes next, and how often the stages have come round.
struct StageTurn {
  int stage = 0;
  uint32_t phase = 0;

  __device__ int Before() const { return (stage + kStages - 1) % kStages; }
  __device__ void Advance() {
    stage = (stage + 1) % kStages;
    if (stage == 0) phase ^= 1U;
  }
};

// The tiles of a run's states, in order, as the copy engine is asked for them.
template <typename Number, int kKeyDim>
struct TileCursor {
  static constexpr int kTileRows =
      kStageBytes / (kKeyDim * static_cast<int>(sizeof(Number)));

  RowHead at;
  int first_value = 0;

  template <typename Shared>
  __device__ Number* State(const GatedDeltaDecodeArgs& args,
                           const Shared& shared) const {
    return static_cast<Number*>(args.state) +
           shared.slots[at.row] * args.state_stride +
           int64_t{at.head * args.value_dim + first_value} * kKeyDim;
  }
  __device__ uint32_t Bytes(const GatedDeltaDecodeArgs& args) const {
    const int rows = min(kTileRows, args.value_dim - first_value);
    return rows * kKeyDim * static_cast<int>(sizeof(Number));
  }
  template <typename Shared>
  __device__ void Advance(const GatedDeltaDecodeArgs& args,
                          const Shared& shared) {
    first_value += kTileRows;
    if (first_value < args.value_dim) return;
    first_value = 0;
    at.Advance(args, shared);
  }
  template <typename Shared>
  __device__ void Load(const GatedDeltaDecodeArgs& args,
                       Shared& shared,
                       int stage) {
    if (at.left <= 0) return;
    StartLoad(shared.stages[stage],
              State(args, shared),
              Bytes(args),
              &shared.loaded[stage]);
    Advance(args, shared);
  }
};

}  // namespace weir::engine
