// SPDX-License-Identifier: Apache-2.0
//
// A token's step on a slab that a warp holds in registers: the formulas and the
// order of their sums are those of token_step.cuh. gated_delta_stream.cu.
//
// Threads: all of a warp call each function together.
#pragma once

#include <cstdint>

#include "engine/kernels/cuda/gated_delta_run.cuh"
#include "engine/kernels/cuda/state_tile.cuh"
#include "engine/kernels/cuda/token_step.cuh"

namespace weir::engine {

template <typename Number, int kKeyDim>
struct Slab {
  using Tile = StateTile<Number, kKeyDim, 1, Memory::kShared>;
  static constexpr int kPasses = kSlabNumbers / kWarp / kTileNumbers;
  static constexpr int kPassRows = kWarp / Tile::kLanes;

  float numbers[kPasses][kTileNumbers];

  __device__ static int Row(int pass) {
    const int lane = static_cast<int>(threadIdx.x) % kWarp;
    return pass * kPassRows + lane / Tile::kLanes;
  }

  __device__ void Load(const Number* from) {
#pragma unroll
    for (int pass = 0; pass < kPasses; ++pass) {
#pragma unroll
      for (int i = 0; i < kTileNumbers; i += Tile::kPieceNumbers) {
        Tile::LoadPiece(from + Row(pass) * kKeyDim + Tile::Column(i),
                        true,
                        numbers[pass] + i);
      }
    }
  }
  // As assembly, so that it stays a branch: else each number of each slab takes
  // a selection.
  __device__ void Clear() {
#pragma unroll
    for (int pass = 0; pass < kPasses; ++pass) {
#pragma unroll
      for (int i = 0; i < kTileNumbers; ++i) {
        asm volatile("mov.f32 %0, 0f00000000;" : "=f"(numbers[pass][i]));
      }
    }
  }

  // To device memory, not to be read again soon. kFinite: none is a NaN.
  template <bool kFinite>
  __device__ void Store(Number* to,
                        RoundingKey key,
                        const uint32_t* chances) const {
    Number* const first = to + Row(0) * kKeyDim + Tile::Column(0);
#pragma unroll
    for (int pass = 0; pass < kPasses; ++pass) {
      uint32_t row_bits = 0;
      if constexpr (sizeof(Number) == 2)
        row_bits = key.Bits(Row(pass) * kKeyDim);
#pragma unroll
      for (int i = 0; i < kTileNumbers; i += Tile::kPieceNumbers) {
        const float* x = numbers[pass] + i;
        Number* const p = first + pass * kPassRows * kKeyDim + i * Tile::kLanes;
        if constexpr (sizeof(Number) == 4) {
          __stcs(reinterpret_cast<float4*>(p),
                 make_float4(x[0], x[1], x[2], x[3]));
        } else {
          const uint4 columns =
              *reinterpret_cast<const uint4*>(chances + Tile::Column(i) / 2);
          __stcs(
              reinterpret_cast<uint4*>(p),
              make_uint4(RoundPair<kFinite>(x[0], x[1], row_bits ^ columns.x),
                         RoundPair<kFinite>(x[2], x[3], row_bits ^ columns.y),
                         RoundPair<kFinite>(x[4], x[5], row_bits ^ columns.z),
                         RoundPair<kFinite>(x[6], x[7], row_bits ^ columns.w)));
        }
      }
    }
  }

  // Takes the slab over the unit's token: writes it to `at` and its rows' o in
  // place of their v.
  __device__ void Step(const SlabPlace& at,
                       uint32_t rounding_seed,
                       StreamUnit<kKeyDim>& unit) {
    float read[kPasses] = {};
    float met[kPasses] = {};
    float kq = 0;
    float k[kTileNumbers];
    ForNumbers<Tile>([&](int i, int c) {
      const float q = unit.q[c];
      k[i] = unit.k[c];
      kq = fmaf(k[i], q, kq);
#pragma unroll
      for (int pass = 0; pass < kPasses; ++pass) {
        read[pass] = fmaf(numbers[pass][i], q, read[pass]);
        met[pass] = fmaf(numbers[pass][i], k[i], met[pass]);
      }
    });
    kq = SumOverLanes<Tile::kLanes>(kq);
    const float decay = unit.decay[at.head];
    const float beta = unit.beta[at.head];
    float* const values = unit.values + at.row;
    float o[kPasses];
    float rest = 0;  // NaN, if the step makes a number that is not finite
#pragma unroll
    for (int pass = 0; pass < kPasses; ++pass) {
      read[pass] = SumOverLanes<Tile::kLanes>(read[pass]);
      met[pass] = SumOverLanes<Tile::kLanes>(met[pass]);
      const float u = beta * (values[Row(pass)] - decay * met[pass]);
      o[pass] = fmaf(u, kq, read[pass] * decay);
      rest = fmaf(u, 0.0F, rest);
#pragma unroll
      for (int i = 0; i < kTileNumbers; ++i) {
        numbers[pass][i] = fmaf(u, k[i], decay * numbers[pass][i]);
      }
    }
    // The lanes of a row have all read its v.
    __syncwarp();
#pragma unroll
    for (int pass = 0; pass < kPasses; ++pass) {
      if (Tile::Lane() == 0) values[Row(pass)] = o[pass];
    }
    auto* to = static_cast<Number*>(at.state);
    const RoundingKey key = {RoundingSeed(rounding_seed, at.consumed),
                             at.number};
    // What is not finite in s, k or the decay is in u as well; and of finite
    // ones no NaN comes. So one look at u spares a look at each number.
    if (sizeof(Number) == 4 || __all_sync(0xffffffffU, rest == 0)) {
      Store<true>(to, key, unit.chances);
    } else {
      Store<false>(to, key, unit.chances);
    }
  }
};

}  // namespace weir::engine
