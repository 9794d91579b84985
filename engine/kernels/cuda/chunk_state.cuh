// SPDX-License-Identifier: Apache-2.0
//
// The state of 64 values in a warpgroup's registers: 16 rows a warp, as blocks
// of sums (chunk_fragment.cuh).
#pragma once

#include "engine/kernels/cuda/chunk_fragment.cuh"
#include "engine/kernels/cuda/chunk_shared.cuh"

namespace weir::engine {

template <int kKeyTiles>
class StateRows {
 public:
  // `state` is this block's first value's, [V, K].
  __device__ StateRows(int group, float* state)
      : group_(group),
        warp_(__shfl_sync(0xffffffffU, threadIdx.x % kWarpgroup / 32, 0)),
        state_(state + (64 * group + 16 * warp_ + Lane() / 4) * kKeyDim +
               2 * (Lane() & 3)) {}

  __device__ void Load(bool fresh) {
    ForEachPair([&](float* pair, float* at) {
      const float2 x =
          fresh ? float2{0.0F, 0.0F} : *reinterpret_cast<const float2*>(at);
      pair[0] = x.x;
      pair[1] = x.y;
    });
  }
  __device__ void Store(float scale) {
    ForEachPair([&](float* pair, float* at) {
      *reinterpret_cast<float2*>(at) = float2{scale * pair[0], scale * pair[1]};
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
#pragma unroll
    for (int tile = 0; tile < kKeyTiles; ++tile) {
#pragma unroll
      for (int i = 0; i < 32; i += 2) {
        visit(&s_[tile][i],
              state_ + (i & 2) * 4 * kKeyDim + 64 * tile + i / 4 * 8);
      }
    }
  }

  float* const state_;
};

}  // namespace weir::engine
