// SPDX-License-Identifier: Apache-2.0
//
// The state of 64 values in a warpgroup's registers: 16 rows a warp, as blocks
// of sums (chunk_fragment.cuh). What it is loaded from and stored to.
#pragma once

#include <cuda_bf16.h>

#include <cstdint>

#include "engine/kernels/cuda/chunk_fragment.cuh"
#include "engine/kernels/cuda/chunk_shared.cuh"
#include "engine/kernels/cuda/rounding.cuh"

namespace weir::engine {

// Rows of a head's state in device memory, [V, K], from a block's first value
// on. As bf16 only where a session's state rests.
struct StateMemory {
  void* numbers = nullptr;  // null: zero, or nowhere
  bool is_bfloat = false;
  RoundingKey key = {0};

  __device__ float2 Pair(int64_t at) const {
    if (numbers == nullptr) return float2{0.0F, 0.0F};
    if (!is_bfloat) {
      return *reinterpret_cast<const float2*>(static_cast<float*>(numbers) +
                                              at);
    }
    return __bfloat1622float2(*reinterpret_cast<const __nv_bfloat162*>(
        static_cast<__nv_bfloat16*>(numbers) + at));
  }
  __device__ void SetPair(int64_t at, float2 x) const {
    if (!is_bfloat) {
      *reinterpret_cast<float2*>(static_cast<float*>(numbers) + at) = x;
      return;
    }
    const uint32_t chance = key.Bits(static_cast<uint32_t>(at));
    *reinterpret_cast<uint32_t*>(static_cast<__nv_bfloat16*>(numbers) + at) =
        RoundByChance(x.x, chance & 0xffffU) | RoundByChance(x.y, chance >> 16)
                                                   << 16;
  }
};

template <int kKeyTiles>
class StateRows {
 public:
  __device__ explicit StateRows(int group)
      : group_(group),
        warp_(__shfl_sync(0xffffffffU, threadIdx.x % kWarpgroup / 32, 0)) {}

  __device__ void Load(const StateMemory& state) {
    ForEachPair([&](float* pair, int64_t at) {
      const float2 x = state.Pair(at);
      pair[0] = x.x;
      pair[1] = x.y;
    });
  }
  // The unit vectors from `first` on.
  __device__ void LoadUnits(int first) {
    ForEachPair([&](float* pair, int64_t at) {
      const auto row = static_cast<int>(at / kKeyDim) + first;
      const auto column = static_cast<int>(at % kKeyDim);
      pair[0] = column == row ? 1.0F : 0.0F;
      pair[1] = column + 1 == row ? 1.0F : 0.0F;
    });
  }
  __device__ void Store(float scale, const StateMemory& state) {
    ForEachPair([&](float* pair, int64_t at) {
      state.SetPair(at, float2{scale * pair[0], scale * pair[1]});
    });
  }

 protected:
  static constexpr int kKeyDim = 64 * kKeyTiles;

  const int group_;
  const int warp_;
  float s_[kKeyTiles][32];

 private:
  template <typename Visit>
  __device__ void ForEachPair(Visit visit) {
    const int64_t first =
        (64 * group_ + 16 * warp_ + Lane() / 4) * kKeyDim + 2 * (Lane() & 3);
#pragma unroll
    for (int tile = 0; tile < kKeyTiles; ++tile) {
#pragma unroll
      for (int i = 0; i < 32; i += 2) {
        visit(&s_[tile][i],
              first + (i & 2) * 4 * kKeyDim + 64 * tile + i / 4 * 8);
      }
    }
  }
};

}  // namespace weir::engine
