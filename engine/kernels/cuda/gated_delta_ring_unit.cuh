// SPDX-License-Identifier: Apache-2.0
//
// What the warps of a block of gated_delta_ring_stream.cu work on: units, each
// a row's heads that share a key or some of them, and the shared memory in
// which one is handed on.
//
// Threads: plain functions.
#pragma once

#include <cstdint>

#include "engine/kernels/cuda/bulk_transfer.cuh"
#include "engine/kernels/cuda/gated_delta_ring_place.cuh"

namespace weir::engine {

inline constexpr int kFeedTaps = 4;
inline constexpr int kFeedHeadsMax = 4;

// Of a launch.
struct FeedPlan {
  int32_t heads;         // of a unit
  int32_t values;        // of a unit
  int32_t sharing;       // units that share a key
  int32_t units;         // of a row
  uint32_t head_factor;  // as RingPlan's
};

struct RingUnit {
  float* state;  // its first row; null: there is no further unit
  int64_t token;
  int32_t slot;
  int32_t group;  // among the row's units
  uint32_t consumed;
  int32_t held;

  __device__ bool is_fresh() const { return consumed == 0; }
  __device__ bool is_fold() const { return consumed == 0 || held == kRingHeld; }
};

// Which units are a block's: the first by its index, the others as their turn
// comes, or at even distances. All of the feeding warp together.
class UnitTurns {
 public:
  __device__ UnitTurns(const GatedDeltaRingArgs& all, const FeedPlan& plan)
      : all_(all), args_(all.step), plan_(plan), turn_(blockIdx.x) {}

  // The next unit of a row of one token.
  template <int kKeyDim>
  __device__ RingUnit Take() {
    const bool is_single = args_.row_tokens_max == 1;
    RingUnit unit = {};
    for (;;) {
      const uint32_t turn = __shfl_sync(0xffffffffU, turn_, 0);
      const auto row = static_cast<int32_t>(turn / plan_.units);
      if (row >= args_.rows) return unit;
      // Not waited for before the next call.
      if (all_.turns == nullptr) {
        turn_ = turn + gridDim.x;
      } else if (Lane() == 0) {
        turn_ = gridDim.x + atomicAdd(&all_.turns[0], 1U);
      }
      unit.group = static_cast<int32_t>(turn - row * plan_.units);
      unit.slot = args_.slots[row];
      unit.consumed = args_.consumed[row];
      unit.token = is_single ? row : args_.row_starts[row];
      const bool is_one =
          is_single || args_.row_starts[row + 1] - unit.token == 1;
      if (unit.slot >= 0 && is_one) break;
    }
    const int head = unit.group * plan_.heads;
    unit.held = unit.is_fresh() ? 0 : Ring::Of(all_, unit.slot).Held(head);
    unit.state = static_cast<float*>(args_.state) +
                 unit.slot * args_.state_stride +
                 int64_t{head} * args_.value_dim * kKeyDim;
    return unit;
  }

  // After the last.
  __device__ void End() const {
    if (Lane() != 0 || all_.turns == nullptr) return;
    // All blocks have taken their last turn when the last one is here.
    __threadfence();
    if (atomicAdd(&all_.turns[1], 1U) == gridDim.x - 1) {
      all_.turns[0] = 0;
      all_.turns[1] = 0;
    }
  }

 private:
  __device__ static int Lane() { return static_cast<int>(threadIdx.x) % kWarp; }

  const GatedDeltaRingArgs& all_;
  const GatedDeltaDecodeArgs& args_;
  const FeedPlan& plan_;
  uint32_t turn_;
};

// kWarps warps work on a unit, a thread for each value at most.
template <typename Input, int kKeyDim, int kWarps>
struct FeedShared {
  static constexpr int kValues = kWarps * kWarp;
  static constexpr int kChannels = 2 * kKeyDim + kValues;  // q, k, v
  static_assert(kValues >= 2 * kKeyDim);

  alignas(128) float stages[kWarps][kRingStages]
                           [RingRows<kKeyDim>::kRows * kKeyDim];
  // A unit's, by the copy engine.
  alignas(16) Input window[kFeedTaps - 1][kChannels];  // the oldest first
  alignas(16) Input x[kChannels];
  alignas(16) Input z[kValues];
  alignas(16) float weight[kChannels][kFeedTaps];
  alignas(16) float keys[kRingHeld][kKeyDim];
  alignas(16) float entries[kRingHeld * kValues];  // by head, u
  // A unit's, by the feeding warp.
  alignas(16) float rest[kFeedHeadsMax][kRingSteps];  // as RingShared's
  float beta[kFeedHeadsMax];
  // As RingShared's.
  alignas(16) float q[kKeyDim];
  alignas(16) float k[kKeyDim];
  RingValue values[kValues];
  float u[kValues];
  float o[kValues];
  float2 met[kRingSteps];
  float squares[2 * kKeyDim / kWarp];
  float o_squares[kValues / kSquaresGroup];
  RingUnit units[2];
  uint64_t loaded[kWarps][kRingStages];
  uint64_t queued[2];  // units[.] is there
  uint64_t ready;      // the unit's inputs are there
  uint64_t taken;      // the warps need them no longer
};

#if __CUDA_ARCH__ >= 900

// One thread; InitBarrier is for a count of one.
__device__ inline void InitBarrierOf(uint64_t* barrier, uint32_t count) {
  asm volatile(
      "mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(SharedAddress(barrier)),
      "r"(count)
      : "memory");
}
__device__ inline void Arrive(uint64_t* barrier) {
  asm volatile(
      "mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(SharedAddress(barrier))
      : "memory");
}

#endif

}  // namespace weir::engine
