// SPDX-License-Identifier: Apache-2.0
//
// The state of 64 values in a warpgroup's registers: 16 rows a warp, as blocks
// of sums (chunk_fragment.cuh).
#pragma once

#include <cstdint>

#include "engine/kernels/cuda/chunk_fragment.cuh"
#include "engine/kernels/cuda/chunk_shared.cuh"

namespace weir::engine {

template <int kKeyTiles>
class StateRows {
 public:
  __device__ explicit StateRows(int group)
      : group_(group),
        warp_(__shfl_sync(0xffffffffU, threadIdx.x % kWarpgroup / 32, 0)) {}

  // Of this block's values, [V, K]; zero without a state.
  __device__ void Load(const float* state) {
    ForEachPair([&](float* pair, int64_t at) {
      const float2 x = state == nullptr
                           ? float2{0.0F, 0.0F}
                           : *reinterpret_cast<const float2*>(state + at);
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
  __device__ void Store(float scale, float* state) {
    ForEachPair([&](float* pair, int64_t at) {
      *reinterpret_cast<float2*>(state + at) =
          float2{scale * pair[0], scale * pair[1]};
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
