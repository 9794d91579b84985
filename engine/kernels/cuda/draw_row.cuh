// SPDX-License-Identifier: Apache-2.0
//
// The blocks that draw one row's token, and each one's slice of the logits:
// sums over all of them, which are of integers and therefore in any order.
// sampling.cu.
//
// Threads: all of a row's blocks call each function together.
#pragma once

#include <cstdint>

#include "engine/kernels/cuda/row_blocks.cuh"

namespace weir::engine {

inline constexpr int kDrawThreads = 1024;
inline constexpr int kDrawWarps = kDrawThreads / 32;
inline constexpr int kDrawBins = kDrawThreads;  // a thread has one
inline constexpr int kDrawBlocksMax = 8;  // a cluster that every card takes
inline constexpr int kDrawSearches = 3;   // of a row, at most
inline constexpr int kDrawGathered = 512;
inline constexpr int kDrawSums = 3;  // taken together, at most

// An amount of tokens and of their weights.
struct Mass {
  uint64_t count;
  uint64_t weight;

  __device__ Mass operator+(const Mass& other) const {
    return {count + other.count, weight + other.weight};
  }
  __device__ Mass operator-(const Mass& other) const {
    return {count - other.count, weight - other.weight};
  }
};

// The bin in which something falls, or -1, what it holds and what lies before.
struct FoundBin {
  int bin;
  Mass before;
  Mass mass;
};

// A place in the order by logits: the token of `rank` by its id among those
// with the logit of `key`.
struct DrawPlace {
  bool is_found;
  uint32_t key;
  uint64_t rank;
  uint64_t weight_upto;  // of all tokens to this one, its own too
  bool has_token;
  uint32_t token;
};

struct DrawShared {
  // By bin; a weight is two halves, as shared memory adds 32 bits at a time.
  uint32_t counts[kDrawBins];
  uint32_t weights_low[kDrawBins];
  uint32_t weights_high[kDrawBins];
  uint64_t of_warps[kDrawSums][kDrawWarps];
  Mass masses_of_warps[kDrawWarps];
  // Of this block, read by the others; two, so that one is written while the
  // other is read.
  uint64_t of_block[2][kDrawSums];
  FoundBin found;
  DrawPlace found_place;
  // What a search compares: of this block, and of all.
  uint64_t gathered[2][kDrawGathered];
  uint32_t gathered_count[kDrawSearches];
  uint64_t candidates[kDrawGathered];
  uint64_t candidate_weights[kDrawGathered];
};

// Tokens of one of `blocks` blocks; whole words of marks.
__host__ __device__ inline int32_t DrawShare(int32_t vocabulary, int blocks) {
  return ((vocabulary + blocks - 1) / blocks + 31) / 32 * 32;
}

// A block's slice of a row.
class DrawSlice {
 public:
  __device__ DrawSlice(DrawShared& shared, int32_t vocabulary)
      : shared_(shared) {
    const int share = DrawShare(vocabulary, RowBlocks::Count());
    begin_ = RowBlocks::Rank() * share;
    count_ = max(0, min(share, vocabulary - begin_));
    // A warp's, when the order of the tokens matters.
    warp_share_ = ((share + kDrawWarps - 1) / kDrawWarps + 31) / 32 * 32;
  }

  __device__ int begin() const { return begin_; }
  __device__ int count() const { return count_; }

  // Each of x by op over all threads of the row's blocks; of no threads, 0.
  template <int kCount, typename Op>
  __device__ void OverRow(uint64_t (&x)[kCount], Op op) {
    static_assert(kCount <= kDrawSums);
#pragma unroll
    for (int i = 0; i < kCount; ++i) {
      x[i] = OverWarp(x[i], op);
      if (DrawLane() == 0) shared_.of_warps[i][DrawWarp()] = x[i];
    }
    __syncthreads();
    if (DrawWarp() < kCount) {
      const int i = DrawWarp();
      const uint64_t sum = OverWarp(shared_.of_warps[i][DrawLane()], op);
      if (DrawLane() == 0) shared_.of_block[turn_][i] = sum;
    }
    RowBlocks::Sync();
#pragma unroll
    for (int i = 0; i < kCount; ++i) {
      x[i] = OverWarp(OfBlock(i, RowBlocks::Count()), op);
    }
    turn_ ^= 1;
  }

  // f(i) for each i of the slice.
  template <typename Function>
  __device__ void ForEach(Function f) const {
#pragma unroll 4
    for (int i = static_cast<int>(threadIdx.x); i < count_; i += kDrawThreads) {
      f(i);
    }
  }

  // The tokens' amounts lie end to end by their ids: calls found(i) in the
  // thread that has the token in which `target` falls.
  template <typename Amount, typename Found>
  __device__ void FindById(Amount amount, uint64_t target, Found found) {
    const int first = DrawWarp() * warp_share_;
    const int end = min(count_, first + warp_share_);
    uint64_t sum = 0;
    for (int i = first + DrawLane(); i < end; i += 32) sum += amount(i);
    sum = OverWarp(sum, Add());
    if (DrawLane() == 0) shared_.of_warps[0][DrawWarp()] = sum;
    __syncthreads();
    if (DrawWarp() == 0) {
      const uint64_t own = shared_.of_warps[0][DrawLane()];
      const uint64_t upto = ScanWarp(own);
      shared_.of_warps[0][DrawLane()] = upto - own;
      if (DrawLane() == 31) shared_.of_block[turn_][0] = upto;
    }
    RowBlocks::Sync();
    uint64_t before = shared_.of_warps[0][DrawWarp()] +
                      OverWarp(OfBlock(0, RowBlocks::Rank()), Add());
    turn_ ^= 1;
    if (target < before || target - before >= sum) return;
    for (int base = first; base < end; base += 32) {
      const int i = base + DrawLane();
      const uint64_t upto = ScanWarp(i < end ? amount(i) : 0);
      const unsigned beyond = __ballot_sync(kAllLanes, target - before < upto);
      if (beyond != 0) {
        if (DrawLane() == __ffs(static_cast<int>(beyond)) - 1) found(i);
        return;
      }
      before += __shfl_sync(kAllLanes, upto, 31);
    }
  }

 private:
  // Block `lane`'s, of the first `blocks`: all are on their way at once.
  __device__ uint64_t OfBlock(int i, int blocks) const {
    return DrawLane() < blocks
               ? RowBlocks::At(shared_.of_block[turn_][i], DrawLane())
               : 0;
  }

  DrawShared& shared_;
  int begin_;
  int count_;
  int warp_share_;
  int turn_ = 0;
};

}  // namespace weir::engine
