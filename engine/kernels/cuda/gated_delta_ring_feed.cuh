// SPDX-License-Identifier: Apache-2.0
//
// The warp of a block of gated_delta_ring_stream.cu that feeds the others: it
// finds the next unit, a row's heads that share a key or some of them, has the
// copy engine bring what the unit's token and ring are, and prepares the gates.
//
// Threads: all of that warp call each function together.
#pragma once

#include <cstdint>

#include "engine/kernels/cuda/bulk_transfer.cuh"
#include "engine/kernels/cuda/gated_delta_ring_place.cuh"
#include "engine/kernels/cuda/gated_delta_ring_rows.cuh"
#include "engine/kernels/cuda/gated_delta_ring_token.cuh"

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

template <typename Input, int kKeyDim, int kWarps>
class Feeder {
 public:
  using Shared = FeedShared<Input, kKeyDim, kWarps>;

  __device__ Feeder(const GatedDeltaRingArgs& all,
                    const FeedPlan& plan,
                    Shared& shared)
      : all_(all),
        args_(all.step),
        plan_(plan),
        shared_(shared),
        turn_(blockIdx.x),
        keys_(args_.key_heads * kKeyDim),
        mixed_(2 * keys_ + args_.heads * args_.value_dim) {}

  __device__ void Run() {
    RingUnit before = {};
    for (uint32_t n = 0;; ++n) {
      const RingUnit unit = Take();
      if (Lane() == 0) {
        shared_.units[n % 2] = unit;
        Arrive(&shared_.queued[n % 2]);
      }
      if (n > 0 && Lane() == 0) {
        WaitLoad(&shared_.ready, (n - 1) % 2);
        KeepInputs(before, before.group * plan_.heads);
      }
      __syncwarp();
      if (unit.state == nullptr) break;
      before = unit;
      const Ring ring = Ring::Of(all_, unit.slot);
      const int head = unit.group * plan_.heads;
      const Input* x = static_cast<const Input*>(args_.projected) +
                       unit.token * args_.projected_stride;
      RingGate gates[kFeedHeadsMax];
#pragma unroll
      for (int h = 0; h < kFeedHeadsMax; ++h) {
        if (h < plan_.heads)
          gates[h].Fetch(args_, x, ring, head + h, unit.held);
      }
      if (n > 0) WaitLoad(&shared_.taken, (n - 1) % 2);
      KeepGates(unit, ring, head, gates);
      __syncwarp();
      if (Lane() == 0) {
        WaitStoresRead<0>();
        StartInputs(unit, ring, head, x);
      }
      __syncwarp();
    }
    if (Lane() != 0) return;
    WaitStores();
    if (all_.turns == nullptr) return;
    // All blocks have taken their last turn when the last one is here.
    __threadfence();
    if (atomicAdd(&all_.turns[1], 1U) == gridDim.x - 1) {
      all_.turns[0] = 0;
      all_.turns[1] = 0;
    }
  }

 private:
  __device__ static int Lane() { return static_cast<int>(threadIdx.x) % kWarp; }

  // The next unit of a row of one token.
  __device__ RingUnit Take() {
    const bool is_single = args_.row_tokens_max == 1;
    RingUnit unit = {};
    for (;;) {
      const auto row = static_cast<int32_t>(turn_ / plan_.units);
      if (row >= args_.rows) return unit;
      unit.group = static_cast<int32_t>(turn_ - row * plan_.units);
      unit.slot = args_.slots[row];
      unit.consumed = args_.consumed[row];
      unit.token = is_single ? row : args_.row_starts[row];
      const bool is_one =
          is_single || args_.row_starts[row + 1] - unit.token == 1;
      uint32_t next = turn_ + gridDim.x;
      if (all_.turns != nullptr) {
        if (Lane() == 0) next = gridDim.x + atomicAdd(&all_.turns[0], 1U);
        next = __shfl_sync(0xffffffffU, next, 0);
      }
      turn_ = next;
      if (unit.slot >= 0 && is_one) break;
    }
    const int head = unit.group * plan_.heads;
    unit.held = unit.is_fresh() ? 0 : Ring::Of(all_, unit.slot).Held(head);
    unit.state = static_cast<float*>(args_.state) +
                 unit.slot * args_.state_stride +
                 int64_t{head} * args_.value_dim * kKeyDim;
    return unit;
  }

  __device__ void KeepGates(const RingUnit& unit,
                            const Ring& ring,
                            int head,
                            const RingGate (&gates)[kFeedHeadsMax]) {
#pragma unroll
    for (int h = 0; h < kFeedHeadsMax; ++h) {
      if (h >= plan_.heads) break;
      gates[h].Chain(shared_.rest[h]);
      if (Lane() != 0) continue;
      shared_.beta[h] = gates[h].beta;
      if (!unit.is_fold()) ring.Marks(head + h)[unit.held] = gates[h].decay;
      ring.SetHeld(head + h, unit.is_fold() ? 0 : unit.held + 1);
    }
  }

  // The columns of q, k and v, as f(to, column, count).
  template <typename F>
  __device__ void ForColumns(const RingUnit& unit, int head, F f) const {
    const int key = unit.group / plan_.sharing * kKeyDim;
    f(0, key, kKeyDim);
    f(kKeyDim, keys_ + key, kKeyDim);
    f(2 * kKeyDim, 2 * keys_ + head * args_.value_dim, plan_.values);
  }

  // One lane.
  __device__ void StartInputs(const RingUnit& unit,
                              const Ring& ring,
                              int head,
                              const Input* x) const {
    constexpr auto kBytes = static_cast<uint32_t>(sizeof(Input));
    const uint32_t channels = 2 * kKeyDim + plan_.values;
    const uint32_t looks_back =
        min(unit.consumed, static_cast<uint32_t>(kFeedTaps - 1));
    const uint32_t key_bytes = unit.held * kKeyDim * sizeof(float);
    const uint32_t entry_bytes = unit.held * args_.value_dim * sizeof(float);
    uint64_t* const ready = &shared_.ready;
    ExpectLoad(channels * (kBytes * (1 + looks_back) + sizeof(float4)) +
                   plan_.values * kBytes + key_bytes +
                   plan_.heads * entry_bytes,
               ready);
    if (unit.held > 0) {
      StartPart(shared_.keys[0],
                ring.Keys(unit.group / plan_.sharing),
                key_bytes,
                ready);
      for (int h = 0; h < plan_.heads; ++h) {
        StartPart(shared_.entries + h * kRingHeld * args_.value_dim,
                  ring.Values(head + h),
                  entry_bytes,
                  ready);
      }
    }
    const auto* window = static_cast<const Input*>(args_.window) +
                         unit.slot * args_.window_stride;
    ForColumns(unit, head, [&](int to, int column, int count) {
      StartPart(shared_.x + to, x + column, count * kBytes, ready);
      StartPart(shared_.weight[to],
                args_.conv_weight + column * kFeedTaps,
                count * sizeof(float4),
                ready);
      for (uint32_t back = 1; back <= looks_back; ++back) {
        const uint32_t entry = (unit.consumed - back) % kFeedTaps;
        StartPart(shared_.window[kFeedTaps - 1 - back] + to,
                  window + entry * mixed_ + column,
                  count * kBytes,
                  ready);
      }
    });
    StartPart(shared_.z,
              x + args_.z_column + head * args_.value_dim,
              plan_.values * kBytes,
              ready);
  }

  // One lane: the token's inputs to the window, when they are there.
  __device__ void KeepInputs(const RingUnit& unit, int head) const {
    Input* const window = static_cast<Input*>(args_.window) +
                          unit.slot * args_.window_stride +
                          unit.consumed % kFeedTaps * mixed_;
    const bool has_keys = unit.group % plan_.sharing == 0;
    ForColumns(unit, head, [&](int from, int column, int count) {
      if (from < 2 * kKeyDim && !has_keys) return;
      StartStore(window + column,
                 shared_.x + from,
                 static_cast<uint32_t>(count * sizeof(Input)));
    });
  }

  const GatedDeltaRingArgs& all_;
  const GatedDeltaDecodeArgs& args_;
  const FeedPlan& plan_;
  Shared& shared_;
  uint32_t turn_;
  const int keys_;
  const int mixed_;
};

#endif

}  // namespace weir::engine
