// SPDX-License-Identifier: Apache-2.0
//
// How a block goes over its part of a step where warps have different work: in
// units, each a row's heads that share a key or some of them, cut into slabs of
// 16 values. gated_delta_together.cu.
//
// Threads: plain functions.
#pragma once

#include <algorithm>
#include <cstdint>

#include "engine/kernels/cuda/bulk_transfer.cuh"
#include "engine/kernels/cuda/gated_delta_decode.h"

namespace weir::engine {

inline constexpr int kSlabRows = 16;
inline constexpr int kUnitRowsHeld = 64;  // rows of one block's units
inline constexpr int kUnitHeadsMax = 2;
// Values of all a unit's heads.
__host__ __device__ constexpr int UnitValuesMax(int key_dim) {
  return key_dim <= 128 ? 256 : 512;
}

struct UnitPlan {
  int32_t unit_heads;  // value heads of a unit
  int32_t units_of_row;
  int32_t slabs_of_head;
  // Rows of so many tokens are taken, others left out.
  int32_t tokens_min;
  int32_t tokens_max;

  __host__ __device__ int32_t slabs() const {
    return unit_heads * slabs_of_head;
  }
};

// Value heads of a unit: as many as share a key, within `most`, if that leaves
// work for each multiprocessor; else one.
inline int32_t UnitHeads(const GatedDeltaDecodeArgs& args,
                         int multiprocessors,
                         int32_t most) {
  if (int64_t{args.rows} * args.key_heads < multiprocessors) return 1;
  const int32_t sharing = args.heads / args.key_heads;
  int32_t heads =
      std::min({sharing, UnitValuesMax(args.key_dim) / args.value_dim, most});
  while (sharing % heads != 0) --heads;
  return heads;
}

// Of the rows of a block's units.
struct UnitRows {
  int32_t slots[kUnitRowsHeld];  // -1: left out
  uint32_t consumed[kUnitRowsHeld];
  int32_t first[kUnitRowsHeld];  // token
  int32_t tokens[kUnitRowsHeld];

  __device__ void Fill(const GatedDeltaDecodeArgs& args,
                       const UnitPlan& plan,
                       int32_t first_row) {
    for (int i = static_cast<int>(threadIdx.x);
         i < kUnitRowsHeld && first_row + i < args.rows;
         i += static_cast<int>(blockDim.x)) {
      const int32_t row = first_row + i;
      const bool is_single = args.row_tokens_max == 1;
      first[i] = is_single ? row : args.row_starts[row];
      tokens[i] = is_single ? 1 : args.row_starts[row + 1] - first[i];
      consumed[i] = args.consumed[row];
      const bool taken =
          tokens[i] >= plan.tokens_min && tokens[i] <= plan.tokens_max;
      slots[i] = taken ? args.slots[row] : -1;
    }
  }
};

struct UnitCursor {
  int32_t row;   // among UnitRows
  int32_t unit;  // of the row
  int32_t left;  // units from this one on

  // The first of this block's units; the first row is rounded down to.
  __device__ static UnitCursor Begin(const GatedDeltaDecodeArgs& args,
                                     const UnitPlan& plan,
                                     int32_t* first_row) {
    const int64_t units = int64_t{args.rows} * plan.units_of_row;
    const int64_t begin = units * blockIdx.x / gridDim.x;
    const int64_t end = units * (blockIdx.x + 1) / gridDim.x;
    *first_row = static_cast<int32_t>(begin / plan.units_of_row);
    return {0,
            static_cast<int32_t>(begin % plan.units_of_row),
            static_cast<int32_t>(end - begin)};
  }
  __device__ void SkipRows(const UnitPlan& plan, const UnitRows& rows) {
    while (left > 0 && rows.slots[row] < 0) {
      left -= plan.units_of_row - unit;
      unit = 0;
      ++row;
    }
  }
  __device__ void Advance(const UnitPlan& plan, const UnitRows& rows) {
    --left;
    if (++unit < plan.units_of_row) return;
    unit = 0;
    ++row;
    SkipRows(plan, rows);
  }
  // Value head; its key head is that of all the unit's.
  __device__ int32_t FirstHead(const UnitPlan& plan) const {
    return unit * plan.unit_heads;
  }
};

// Tokens of a row that are prepared together.
inline constexpr int kPieceTokens = 16;
__host__ __device__ constexpr int PiecesOf(int32_t tokens) {
  return (tokens + kPieceTokens - 1) / kPieceTokens;
}

// How many warps share a block's slabs. Never more than a unit has: a warp then
// has slabs of each unit, and waits for each of its pieces. One that left units
// out would meet a barrier two phases on, which looks like the phase it awaits.
template <int kWarpsMax>
__device__ int32_t SlabWarps(const UnitPlan& plan) {
  return min(plan.slabs(), kWarpsMax);
}

// A warp's slabs of a block's units, in order: each SlabWarps-th.
template <typename Number, int kKeyDim, int kWarpsMax>
struct SlabCursor {
  UnitCursor at;
  int32_t slab;         // of the head; or beyond, by that many of the next
  int32_t head = 0;     // of the unit
  uint32_t pieces = 0;  // of the units before

  // To be called once, and after each change of slab. Without divisions, which
  // took a tenth of a slab's instructions.
  __device__ void Settle(const UnitPlan& plan, const UnitRows& rows) {
    while (at.left > 0 && slab >= plan.slabs_of_head) {
      slab -= plan.slabs_of_head;
      if (++head < plan.unit_heads) continue;
      head = 0;
      pieces += PiecesOf(rows.tokens[at.row]);
      at.Advance(plan, rows);
    }
  }
  __device__ void Advance(const UnitPlan& plan, const UnitRows& rows) {
    slab += SlabWarps<kWarpsMax>(plan);
    Settle(plan, rows);
  }
  __device__ bool IsAtEnd() const { return at.left <= 0; }
  __device__ int32_t ValueOfHead() const { return slab * kSlabRows; }
  __device__ int32_t Value(const GatedDeltaDecodeArgs& args,
                           const UnitPlan& plan) const {
    return (at.FirstHead(plan) + head) * args.value_dim + ValueOfHead();
  }
  __device__ Number* State(const GatedDeltaDecodeArgs& args,
                           const UnitPlan& plan,
                           const UnitRows& rows) const {
    return static_cast<Number*>(args.state) +
           rows.slots[at.row] * args.state_stride +
           int64_t{Value(args, plan)} * kKeyDim;
  }
  __device__ uint32_t Bytes(const GatedDeltaDecodeArgs& args) const {
    return min(args.value_dim - ValueOfHead(), kSlabRows) * kKeyDim *
           static_cast<uint32_t>(sizeof(Number));
  }
};

#if __CUDA_ARCH__ >= 900

// One thread, before any other uses the barrier: a phase has `count` arrivals.
__device__ inline void InitCountedBarrier(uint64_t* barrier, uint32_t count) {
  asm volatile(
      "mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(SharedAddress(barrier)),
      "r"(count)
      : "memory");
}

// After the barriers' making, by the thread that made them.
__device__ inline void FenceBarriers() {
  asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
}

// After a __syncwarp or a barrier, one thread for all of them.
__device__ inline void Arrive(uint64_t* barrier) {
  asm volatile(
      "mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(SharedAddress(barrier))
      : "memory");
}

#endif

}  // namespace weir::engine
