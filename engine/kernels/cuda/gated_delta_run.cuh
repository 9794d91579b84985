// SPDX-License-Identifier: Apache-2.0
//
// What the warps of a block share in gated_delta_stream.cu, and in which order
// they go over its states: in units (gated_delta_units.cuh), cut into slabs of
// 2,048 numbers, each one warp's. A unit's states lie together, and so a slab
// is a run of memory.
//
// Threads: plain functions, but where a warp calls them together.
#pragma once

#include <cstdint>

#include "engine/kernels/cuda/bulk_transfer.cuh"
#include "engine/kernels/cuda/gated_delta_inputs.cuh"
#include "engine/kernels/cuda/gated_delta_units.cuh"

namespace weir::engine {

// The first warp has the queries, the next the keys, two more the values.
inline constexpr int kPrepareWarps = 4;
inline constexpr int kStepWarps = 12;
inline constexpr int kStreamThreads = (kPrepareWarps + kStepWarps) * kWarp;
inline constexpr int kUnitsHeld = 4;  // prepared, in use or to be finished
inline constexpr int kStreamHeadsMax = 4;
inline constexpr int kSlabNumbers = 2048;

// What a unit's tokens bring, and what is made of it.
template <int kKeyDim>
struct StreamUnit {
  static constexpr int kValues = UnitValuesMax(kKeyDim);

  alignas(16) float q[kKeyDim];
  alignas(16) float k[kKeyDim];
  alignas(16) uint32_t chances[kKeyDim / 2];  // of pairs of columns
  alignas(16) float values[kValues];          // v, then o in its place
  alignas(16) float gates[kValues];           // what o is multiplied by
  float decay[kStreamHeadsMax];
  float beta[kStreamHeadsMax];
  int64_t token;
  int32_t head;  // the first
};

struct alignas(16) SlabPlace {
  void* state;  // null: there are no more
  uint32_t unit;
  int32_t row;   // among the unit's values
  int32_t head;  // of the unit
  uint32_t consumed;
  uint32_t number;  // the first, among those of its slot
};

template <typename Number, int kKeyDim>
struct StreamShared {
  // 16 KiB a warp.
  static constexpr int kStages = 8 / static_cast<int>(sizeof(Number));

  alignas(128) Number slabs[kStepWarps][kStages][kSlabNumbers];
  SlabPlace places[kStepWarps][kStages];
  StreamUnit<kKeyDim> units[kUnitsHeld];
  alignas(16) float norm_weight[StreamUnit<kKeyDim>::kValues];
  UnitRows rows;
  uint64_t loaded[kStepWarps][kStages];
  uint64_t ready[kUnitsHeld];     // prepared
  uint64_t stepped[kUnitsHeld];   // by all slabs of the unit
  uint64_t finished[kUnitsHeld];  // its place is free
};

__device__ inline uint32_t PlaceOfUnit(uint32_t unit) {
  return unit % kUnitsHeld;
}
__device__ inline uint32_t PhaseOfUnit(uint32_t unit) {
  return unit / kUnitsHeld % 2;
}

#if __CUDA_ARCH__ >= 900

// Asks for a warp's slabs in order; by one thread of it. `step` is how many
// warps there are, at most as many as a unit has slabs: a warp then has a slab
// of each unit, and no unit's barrier goes round twice between its looks.
template <typename Number, int kKeyDim>
struct SlabFeed {
  static constexpr int kRows = kSlabNumbers / kKeyDim;

  UnitCursor at;
  int32_t slab;  // of the head; or beyond, by that many of the next
  int32_t step;
  int32_t head = 0;  // of the unit
  uint32_t unit = 0;

  __device__ void Settle(const UnitPlan& plan, const UnitRows& rows) {
    while (at.left > 0 && slab >= plan.slabs_of_head) {
      slab -= plan.slabs_of_head;
      if (++head < plan.unit_heads) continue;
      head = 0;
      ++unit;
      at.Advance(plan, rows);
    }
  }
  __device__ void Ask(const GatedDeltaDecodeArgs& args,
                      const UnitPlan& plan,
                      int warp,
                      int stage,
                      StreamShared<Number, kKeyDim>& shared) {
    Settle(plan, shared.rows);
    SlabPlace& place = shared.places[warp][stage];
    if (at.left <= 0) {
      place.state = nullptr;
      return;
    }
    const int32_t row = head * args.value_dim + slab * kRows;
    const int32_t number =
        (at.FirstHead(plan) * args.value_dim + row) * kKeyDim;
    Number* state = static_cast<Number*>(args.state) +
                    shared.rows.slots[at.row] * args.state_stride + number;
    place.state = state;
    place.unit = unit;
    place.row = row;
    place.head = head;
    place.consumed = shared.rows.consumed[at.row];
    place.number = static_cast<uint32_t>(number);
    StartLoad(shared.slabs[warp][stage],
              state,
              kSlabNumbers * static_cast<uint32_t>(sizeof(Number)),
              &shared.loaded[warp][stage]);
    slab += step;
  }
};

#endif

}  // namespace weir::engine
