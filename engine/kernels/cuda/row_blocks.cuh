// SPDX-License-Identifier: Apache-2.0
//
// The blocks that work on one row of numbers together and read each other's
// shared memory, and sums over a warp of integers.
//
// Threads: all of a row's blocks call Sync together, all of a warp the sums.
#pragma once

#include <cooperative_groups.h>

#include <cstdint>

namespace weir::engine {

inline constexpr unsigned kAllLanes = 0xffffffffU;

// The blocks of a row: a cluster, or one block alone.
class RowBlocks {
 public:
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
  __device__ static int Rank() {
    return static_cast<int>(Cluster().block_rank());
  }
  __device__ static int Count() {
    return static_cast<int>(Cluster().num_blocks());
  }
  __device__ static void Sync() { Cluster().sync(); }
  template <typename T>
  __device__ static const T& At(const T& shared, int rank) {
    return *Cluster().map_shared_rank(&shared, rank);
  }

 private:
  __device__ static cooperative_groups::cluster_group Cluster() {
    return cooperative_groups::this_cluster();
  }
#else
  __device__ static int Rank() { return 0; }
  __device__ static int Count() { return 1; }
  __device__ static void Sync() { __syncthreads(); }
  template <typename T>
  __device__ static const T& At(const T& shared, int) {
    return shared;
  }
#endif
};

struct Add {
  __device__ uint64_t operator()(uint64_t a, uint64_t b) const { return a + b; }
};
struct Largest {
  __device__ uint64_t operator()(uint64_t a, uint64_t b) const {
    return a > b ? a : b;
  }
};

__device__ inline int DrawLane() { return static_cast<int>(threadIdx.x) % 32; }
__device__ inline int DrawWarp() { return static_cast<int>(threadIdx.x) / 32; }

template <typename Op>
__device__ uint64_t OverWarp(uint64_t x, Op op) {
#pragma unroll
  for (int step = 16; step > 0; step /= 2) {
    x = op(x, __shfl_xor_sync(kAllLanes, x, step));
  }
  return x;
}

// Of the lanes to this one.
__device__ inline uint64_t ScanWarp(uint64_t x) {
#pragma unroll
  for (int step = 1; step < 32; step *= 2) {
    const uint64_t other = __shfl_up_sync(kAllLanes, x, step);
    if (DrawLane() >= step) x += other;
  }
  return x;
}

}  // namespace weir::engine
