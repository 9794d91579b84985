// SPDX-License-Identifier: Apache-2.0
//
// Where in the order of falling logits a rank or a sum of weights falls,
// without sorting: bins of tokens, and within the bin that is found finer ones,
// until a bin is one logit. sampling.cu.
//
// Threads: all of a row's blocks call each function together, but for the plain
// functions.
#pragma once

#include <cstdint>

#include "engine/kernels/cuda/draw_row.cuh"

namespace weir::engine {

// Integers in the order of the floats; -0 is 0.
__device__ inline uint32_t DrawKeyOf(float x) {
  const uint32_t bits = __float_as_uint(x + 0.0F);
  return (bits & 0x80000000U) != 0 ? ~bits : bits | 0x80000000U;
}
__device__ inline float LogitOfDrawKey(uint32_t key) {
  return __uint_as_float((key & 0x80000000U) != 0 ? key & 0x7fffffffU : ~key);
}

__device__ inline uint64_t FixedWeight(float weight) {
  return __float2ull_rn(weight * 0x1p40F);
}

// How a row's logits become weights.
struct DrawScale {
  float max_logit;
  float temperature;
  float inverse;  // of the temperature

  // How far below the largest, in e-folds: the quotient as a division rounds
  // it, in fewer instructions. What is far beyond kDepthMax stays so.
  __device__ float Depth(float logit) const {
    const float distance = max_logit - logit;
    const float quotient = distance * inverse;
    if (!(quotient < 2 * kDepthMax)) return quotient;
    return fmaf(fmaf(-quotient, temperature, distance), inverse, quotient);
  }
  // At this depth the weight as an integer is 0.
  static constexpr float kDepthMax = 28.5F;
  // Falls with the logit; kDrawBins at kDepthMax and below.
  __device__ static int BinAt(float depth) {
    if (!(depth < kDepthMax)) return kDrawBins;
    return static_cast<int>(depth * ((kDrawBins - 1) / kDepthMax));
  }
  __device__ static float WeightAt(float depth) { return expf(-depth); }
  __device__ uint64_t FixedWeightOf(float logit) const {
    return FixedWeight(WeightAt(Depth(logit)));
  }
};

__device__ inline void ClearBins(DrawShared& shared) {
  const int bin = static_cast<int>(threadIdx.x);
  shared.counts[bin] = 0;
  shared.weights_low[bin] = 0;
  shared.weights_high[bin] = 0;
  __syncthreads();
}

__device__ inline void AddToBin(DrawShared& shared, int bin, uint64_t weight) {
  atomicAdd(&shared.counts[bin], 1U);
  if (weight == 0) return;
  const auto low = static_cast<uint32_t>(weight);
  const uint32_t old = atomicAdd(&shared.weights_low[bin], low);
  const uint32_t high = static_cast<uint32_t>(weight >> 32) + (old + low < old);
  if (high != 0) atomicAdd(&shared.weights_high[bin], high);
}

// Bin threadIdx.x, of all blocks.
__device__ inline Mass MergeBins(const DrawShared& shared) {
  RowBlocks::Sync();
  const int bin = static_cast<int>(threadIdx.x);
  Mass mass = {};
  // All blocks' are on their way at once.
#pragma unroll
  for (int rank = 0; rank < kDrawBlocksMax; ++rank) {
    const bool is_here = rank < RowBlocks::Count();
    const DrawShared& of = RowBlocks::At(shared, is_here ? rank : 0);
    const uint32_t count = of.counts[bin];
    const uint32_t low = of.weights_low[bin];
    const uint32_t high = of.weights_high[bin];
    if (is_here) mass = mass + Mass{count, uint64_t{high} << 32 | low};
  }
  // None may clear its bins before the others have read them.
  RowBlocks::Sync();
  return mass;
}

// What a place in the order is counted in.
enum class DrawUnit { kTokens, kWeight };
__device__ inline uint64_t AmountOf(const Mass& mass, DrawUnit unit) {
  return unit == DrawUnit::kTokens ? mass.count : mass.weight;
}

// `mine` is the thread's bin; `before` lies before the first.
__device__ inline FoundBin FindBin(DrawShared& shared,
                                   const Mass& mine,
                                   DrawUnit unit,
                                   uint64_t target,
                                   const Mass& before) {
  Mass upto = mine;
  const auto scan = [&] {
#pragma unroll
    for (int step = 1; step < 32; step *= 2) {
      const uint64_t count = __shfl_up_sync(kAllLanes, upto.count, step);
      const uint64_t weight = __shfl_up_sync(kAllLanes, upto.weight, step);
      if (DrawLane() >= step) upto = upto + Mass{count, weight};
    }
  };
  scan();
  if (DrawLane() == 31) shared.masses_of_warps[DrawWarp()] = upto;
  if (threadIdx.x == 0) shared.found.bin = -1;
  __syncthreads();
  const Mass kept = upto;
  if (DrawWarp() == 0) {
    const Mass own = shared.masses_of_warps[DrawLane()];
    upto = own;
    scan();
    shared.masses_of_warps[DrawLane()] = before + upto - own;
  }
  __syncthreads();
  upto = shared.masses_of_warps[DrawWarp()] + kept;
  const Mass from = upto - mine;
  if (target >= AmountOf(from, unit) && target < AmountOf(upto, unit)) {
    shared.found = {static_cast<int>(threadIdx.x), from, mine};
  }
  __syncthreads();
  const FoundBin found = shared.found;
  __syncthreads();
  return found;
}

}  // namespace weir::engine
