// SPDX-License-Identifier: Apache-2.0
//
// The warp of a block of gated_delta_ring_stream.cu that feeds the others: it
// finds the next unit, has the copy engine bring what the unit's token and ring
// are, and prepares the gates.
//
// Threads: all of that warp call each function together.
#pragma once

#include <cstdint>

#include "engine/kernels/cuda/bulk_transfer.cuh"
#include "engine/kernels/cuda/gated_delta_ring_place.cuh"
#include "engine/kernels/cuda/gated_delta_ring_token.cuh"
#include "engine/kernels/cuda/gated_delta_ring_unit.cuh"

namespace weir::engine {

#if __CUDA_ARCH__ >= 900

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
        turns_(all, plan),
        keys_(args_.key_heads * kKeyDim),
        mixed_(2 * keys_ + args_.heads * args_.value_dim) {}

  __device__ void Run() {
    RingUnit before = {};
    for (uint32_t n = 0;; ++n) {
      const RingUnit unit = turns_.template Take<kKeyDim>();
      if (Lane() == 0) {
        shared_.units[n % 2] = unit;
        Arrive(&shared_.queued[n % 2]);
      }
      if (n > 0) {
        WaitLoad(&shared_.ready, (n - 1) % 2);
        KeepInputs(before);
      }
      if (unit.state == nullptr) break;
      before = unit;
      const Ring ring = Ring::Of(all_, unit.slot);
      const Input* x = static_cast<const Input*>(args_.projected) +
                       unit.token * args_.projected_stride;
      RingGate gates[kFeedHeadsMax / 2];
#pragma unroll
      for (int pair = 0; pair < kFeedHeadsMax / 2; ++pair) {
        if (pair * 2 >= plan_.heads) break;
        gates[pair].Fetch(args_, x, ring, Head(unit, pair), unit.held);
      }
      if (n > 0) WaitLoad(&shared_.taken, (n - 1) % 2);
#pragma unroll
      for (int pair = 0; pair < kFeedHeadsMax / 2; ++pair) {
        if (pair * 2 >= plan_.heads) break;
        KeepGate(unit, ring, pair, gates[pair]);
      }
      WaitStoresRead<0>();
      if (Lane() == 0) ExpectLoad(InputBytes(unit), &shared_.ready);
      __syncwarp();
      StartInputs(unit, ring, x);
    }
    WaitStores();
    turns_.End();
  }

 private:
  static constexpr auto kBytes = static_cast<uint32_t>(sizeof(Input));

  __device__ static int Lane() { return static_cast<int>(threadIdx.x) % kWarp; }
  // Of the lane's half of the warp among the unit's; the last of an odd number
  // is both halves'.
  __device__ int HeadOfHalf(int pair) const {
    return min(2 * pair + Lane() / (kWarp / 2), plan_.heads - 1);
  }
  __device__ int Head(const RingUnit& unit, int pair) const {
    return unit.group * plan_.heads + HeadOfHalf(pair);
  }

  __device__ void KeepGate(const RingUnit& unit,
                           const Ring& ring,
                           int pair,
                           const RingGate& gate) {
    const int of_unit = HeadOfHalf(pair);
    const int head = Head(unit, pair);
    gate.Chain(shared_.rest[of_unit]);
    if (gate.Lane() != 0) return;
    shared_.beta[of_unit] = gate.beta;
    if (!unit.is_fold()) ring.Marks(head)[unit.held] = gate.decay;
    ring.SetHeld(head, unit.is_fold() ? 0 : unit.held + 1);
  }

  // Tokens whose inputs the window has.
  __device__ static uint32_t LooksBack(const RingUnit& unit) {
    return min(unit.consumed, static_cast<uint32_t>(kFeedTaps - 1));
  }
  __device__ uint32_t InputBytes(const RingUnit& unit) const {
    const uint32_t channels = 2 * kKeyDim + plan_.values;
    return channels * (kBytes * (1 + LooksBack(unit)) + sizeof(float4)) +
           plan_.values * kBytes +
           unit.held * (kKeyDim + plan_.values) *
               static_cast<uint32_t>(sizeof(float));
  }

  // The unit's q, k or v among all columns.
  __device__ int Column(const RingUnit& unit, int part) const {
    return part == 2 ? 2 * keys_ + unit.group * plan_.values
                     : part * keys_ + unit.group / plan_.sharing * kKeyDim;
  }
  __device__ int Count(int part) const {
    return part == 2 ? plan_.values : kKeyDim;
  }

  // Each lane has a piece of its own.
  __device__ void StartInputs(const RingUnit& unit,
                              const Ring& ring,
                              const Input* x) const {
    constexpr int kParts = 3;  // q, k, v
    constexpr int kOfParts = (kFeedTaps + 1) * kParts;
    const int part = Lane() % kParts;
    const int which = Lane() / kParts;
    const int column = Column(unit, part);
    const int to_channel = part * kKeyDim;
    void* to = nullptr;
    const void* from = nullptr;
    uint32_t bytes = 0;
    if (Lane() < kParts * kFeedTaps) {
      const uint32_t back = which;
      bytes = back <= LooksBack(unit) ? Count(part) * kBytes : 0;
      if (back == 0) {
        to = shared_.x + to_channel;
        from = x + column;
      } else {
        to = shared_.window[kFeedTaps - 1 - back] + to_channel;
        from = static_cast<const Input*>(args_.window) +
               unit.slot * args_.window_stride +
               (unit.consumed - back) % kFeedTaps * mixed_ + column;
      }
    } else if (Lane() < kOfParts) {
      to = shared_.weight[to_channel];
      from = args_.conv_weight + column * kFeedTaps;
      bytes = Count(part) * static_cast<uint32_t>(sizeof(float4));
    } else if (Lane() == kOfParts) {
      to = shared_.z;
      from = x + args_.z_column + unit.group * plan_.values;
      bytes = plan_.values * kBytes;
    } else if (Lane() == kOfParts + 1) {
      to = shared_.keys[0];
      from = ring.Keys(unit.group / plan_.sharing);
      bytes = unit.held * kKeyDim * static_cast<uint32_t>(sizeof(float));
    } else if (Lane() < kOfParts + 2 + plan_.heads) {
      const int h = Lane() - kOfParts - 2;
      to = shared_.entries + h * kRingHeld * args_.value_dim;
      from = ring.Values(unit.group * plan_.heads + h);
      bytes =
          unit.held * args_.value_dim * static_cast<uint32_t>(sizeof(float));
    }
    if (bytes > 0) StartPart(to, from, bytes, &shared_.ready);
  }

  // The token's inputs to the window, when they are there.
  __device__ void KeepInputs(const RingUnit& unit) const {
    const int part = Lane();
    const bool has_keys = unit.group % plan_.sharing == 0;
    if (part > 2 || (part < 2 && !has_keys)) return;
    StartStore(static_cast<Input*>(args_.window) +
                   unit.slot * args_.window_stride +
                   unit.consumed % kFeedTaps * mixed_ + Column(unit, part),
               shared_.x + part * kKeyDim,
               Count(part) * kBytes);
  }

  const GatedDeltaRingArgs& all_;
  const GatedDeltaDecodeArgs& args_;
  const FeedPlan& plan_;
  Shared& shared_;
  UnitTurns turns_;
  const int keys_;
  const int mixed_;
};

#endif

}  // namespace weir::engine
