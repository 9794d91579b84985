// SPDX-License-Identifier: Apache-2.0
//
// Where in the order of falling logits a rank or a sum of weights falls,
// without sorting: the bin by depth, finer bins within it while it holds many
// tokens, and then a comparison of each token with each. sampling.cu.
//
// Threads: all of a row's blocks call each function together.
#pragma once

#include <cstdint>

#include "engine/kernels/cuda/draw_bins.cuh"
#include "engine/kernels/cuda/draw_row.cuh"

namespace weir::engine {

// A search for a place in the order.
struct DrawSearch {
  DrawUnit unit;
  uint64_t target;
  int turn;  // which of the row's searches: 0 to kDrawSearches - 1
};

// The order by logits, the largest first, then by ids: as integers.
__device__ inline uint64_t DrawOrderOf(float logit, int token) {
  return uint64_t{DrawKeyOf(logit)} << 32 | ~static_cast<uint32_t>(token);
}
__device__ inline uint32_t TokenOfDrawOrder(uint64_t order) {
  return ~static_cast<uint32_t>(order);
}

// Among the tokens for which within(logit) holds, at most kDrawGathered.
template <typename Logit, typename Within>
__device__ DrawPlace FindAmong(DrawShared& shared,
                               const DrawSlice& slice,
                               const DrawScale& scale,
                               Logit logit,
                               Within within,
                               const Mass& before,
                               const DrawSearch& search) {
  // Two lists in turn: another block may still read that of the last search.
  const int list = search.turn % 2;
  slice.ForEach([&](int i) {
    const float x = logit(i);
    if (!within(x)) return;
    const uint32_t at = atomicAdd(&shared.gathered_count[search.turn], 1U);
    shared.gathered[list][at] = DrawOrderOf(x, slice.begin() + i);
  });
  RowBlocks::Sync();
  const auto thread = static_cast<uint32_t>(threadIdx.x);
  // Of the first blocks to that of this lane.
  const int blocks = RowBlocks::Count();
  const uint64_t upto = ScanWarp(
      DrawLane() < blocks
          ? RowBlocks::At(shared, DrawLane()).gathered_count[search.turn]
          : 0);
  const auto count = static_cast<uint32_t>(__shfl_sync(kAllLanes, upto, 31));
  uint64_t mine = 0;
  uint32_t start = 0;
  for (int rank = 0; rank < blocks; ++rank) {
    const auto end = static_cast<uint32_t>(__shfl_sync(kAllLanes, upto, rank));
    if (thread >= start && thread < end) {
      mine = RowBlocks::At(shared, rank).gathered[list][thread - start];
    }
    start = end;
  }
  const float x = LogitOfDrawKey(static_cast<uint32_t>(mine >> 32));
  const uint64_t weight = thread < count ? scale.FixedWeightOf(x) : 0;
  if (thread < count) {
    shared.candidates[thread] = mine;
    shared.candidate_weights[thread] = weight;
  }
  __syncthreads();
  if (thread < count) {
    Mass from = before;
    for (uint32_t i = 0; i < count; ++i) {
      if (shared.candidates[i] > mine) {
        from = from + Mass{1, shared.candidate_weights[i]};
      }
    }
    const Mass upto = from + Mass{1, weight};
    if (search.target >= AmountOf(from, search.unit) &&
        search.target < AmountOf(upto, search.unit)) {
      shared.found_place = {true,
                            static_cast<uint32_t>(mine >> 32),
                            0,
                            upto.weight,
                            true,
                            TokenOfDrawOrder(mine)};
    }
  }
  __syncthreads();
  return shared.found_place;
}

// `logit` is a function of i; `coarse` is the thread's bin by depth.
template <typename Logit>
__device__ DrawPlace FindPlace(DrawShared& shared,
                               DrawSlice& slice,
                               const DrawScale& scale,
                               Logit logit,
                               const Mass& coarse,
                               const DrawSearch& search) {
  FoundBin found = FindBin(shared, coarse, search.unit, search.target, {});
  if (found.bin < 0) return {};
  if (found.mass.count <= kDrawGathered) {
    const auto within = [&](float x) {
      return DrawScale::BinAt(scale.Depth(x)) == found.bin;
    };
    return FindAmong(shared, slice, scale, logit, within, found.before, search);
  }
  // The keys that the bin has.
  uint64_t ends[2] = {0, 0};  // the highest, the inverse of the lowest
  slice.ForEach([&](int i) {
    const float x = logit(i);
    if (DrawScale::BinAt(scale.Depth(x)) != found.bin) return;
    const uint32_t key = DrawKeyOf(x);
    ends[0] = max(ends[0], uint64_t{key});
    ends[1] = max(ends[1], uint64_t{~key});
  });
  slice.OverRow(ends, Largest());
  auto hi = static_cast<uint32_t>(ends[0]);
  uint32_t lo = ~static_cast<uint32_t>(ends[1]);
  while (hi > lo) {
    const auto within = [&](float x) {
      const uint32_t key = DrawKeyOf(x);
      return key >= lo && key <= hi;
    };
    if (found.mass.count <= kDrawGathered) {
      return FindAmong(
          shared, slice, scale, logit, within, found.before, search);
    }
    const int bits = 32 - __clz(static_cast<int>(hi - lo));
    const int shift = max(0, bits - 10);
    static_assert(kDrawBins == 1 << 10);
    ClearBins(shared);
    slice.ForEach([&](int i) {
      const float x = logit(i);
      if (!within(x)) return;
      AddToBin(shared,
               static_cast<int>((hi - DrawKeyOf(x)) >> shift),
               scale.FixedWeightOf(x));
    });
    const Mass mine = MergeBins(shared);
    found = FindBin(shared, mine, search.unit, search.target, found.before);
    if (found.bin < 0) return {};
    hi -= static_cast<uint32_t>(found.bin) << shift;
    lo = hi - min(hi - lo, (1U << shift) - 1);
  }
  const uint64_t weight = scale.FixedWeightOf(LogitOfDrawKey(hi));
  const uint64_t rank = search.unit == DrawUnit::kTokens
                            ? search.target - found.before.count
                            : (search.target - found.before.weight) / weight;
  return {true, hi, rank, found.before.weight + (rank + 1) * weight, false, 0};
}

}  // namespace weir::engine
