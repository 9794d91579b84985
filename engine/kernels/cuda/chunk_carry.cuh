// SPDX-License-Identifier: Apache-2.0
//
// A warpgroup that carries the state of 64 values through a row's chunks
// (chunk_shared.cuh). All its products have values for rows, so that what one
// product gives is the next one's left operand without leaving registers:
//
//   W = S k^T, A = S q^T                      [64 values, 64 tokens]
//   R = beta (v^T - 2^g W), U = R T^T         U = v^T without the delta rule
//   out^T = 2^g A + U scores^T
//   S <- 2^g_last S + (U 2^(g_last - g)) k    [64 values, K]
#pragma once

#include <cuda_bf16.h>

#include "engine/kernels/cuda/chunk_fragment.cuh"
#include "engine/kernels/cuda/chunk_shared.cuh"
#include "engine/kernels/cuda/chunk_values.cuh"

namespace weir::engine {

template <typename Form>
class CarriedState {
 public:
  // `state` is this block's first value's, [V, K].
  __device__ CarriedState(int group, float* state)
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
  __device__ void Store() {
    ForEachPair([](float* pair, float* at) {
      *reinterpret_cast<float2*>(at) = float2{pair[0], pair[1]};
    });
  }

  // One chunk, of which `count` tokens are written to out, this block's first
  // value's.
  __device__ void Step(ChunkTokens<Form>& tokens,
                       const ChunkOperands<Form::kDelta>& operands,
                       int count,
                       __nv_bfloat16* out,
                       int64_t stride) {
    const ChunkScales& scales = operands.scales;
    float writes[32] = {};  // W, then U, then U with its decay to the end
    float reads[32] = {};   // A, then out
    Read(tokens, scales.from_start[kChunkTokens - 1], writes, reads);
    Fragment v[4];
    uint8_t* values = tokens.v[group_];
#pragma unroll
    for (int j = 0; j < 4; ++j) {
      LoadBlocksTransposed(TurnedAddress(SharedAddress(values), warp_, j),
                           v[j]);
    }
    Fragment u_rest[4];
    if constexpr (Form::kDelta) {
      Solve(operands.inverse, scales, writes, v, u_rest);
    } else {
      Unpack(v, writes);
    }
    if constexpr (kFrugal) {
      UpdateInTurns(tokens, operands, v, writes, reads);
    } else {
      Update(tokens, operands, v, u_rest, writes, reads);
    }
#pragma unroll
    for (int j = 0; j < 4; ++j) {
      Fragment x;
      Round(reads + 8 * j, x);
      StoreBlocksTransposed(TurnedAddress(SharedAddress(values), warp_, j), x);
    }
    __syncwarp();
    WriteOut(values, warp_, count, out + 64 * group_, stride);
  }

 private:
  static constexpr int kKeyTiles = Form::kKeyTiles;
  static constexpr int kKeyDim = 64 * kKeyTiles;
  // A state of 256 keys leaves no registers for all operands of a step at once.
  static constexpr bool kFrugal = kKeyTiles == 4 && Form::kDelta;
  // Key tiles whose operands fit in registers together.
  static constexpr int kTilesAtOnce = kFrugal || kKeyTiles < 2 ? 1 : 2;

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

  // W and A, both of the state at the chunk's start, which then decays.
  __device__ void Read(const ChunkTokens<Form>& tokens,
                       float decay,
                       float (&writes)[32],
                       float (&reads)[32]) {
#pragma unroll
    for (int first = 0; first < kKeyTiles; first += kTilesAtOnce) {
      Fragment s[kTilesAtOnce][4];
#pragma unroll
      for (int i = 0; i < kTilesAtOnce; ++i) {
#pragma unroll
        for (int j = 0; j < 4; ++j) Round(s_[first + i] + 8 * j, s[i][j]);
#pragma unroll
        for (int j = 0; j < 32; ++j) s_[first + i][j] *= decay;
      }
      BeginProducts();
      if constexpr (Form::kDelta) {
        MultiplyState(s, tokens.k + first, first > 0, writes);
      }
      MultiplyState(s, tokens.q + first, first > 0, reads);
      WaitProducts<0>();
      if constexpr (Form::kDelta) Pin(writes);
      Pin(reads);
    }
  }

  // out and the new state, from A in `reads` and U in `writes`, which is in u
  // and u_rest rounded.
  __device__ void Update(const ChunkTokens<Form>& tokens,
                         const ChunkOperands<Form::kDelta>& operands,
                         const Fragment (&u)[4],
                         const Fragment (&u_rest)[4],
                         float (&writes)[32],
                         float (&reads)[32]) {
    const ChunkScales& scales = operands.scales;
    Fragment w[4];
    Fragment w_rest[4];
#pragma unroll
    for (int j = 0; j < 4; ++j) {
      Scale(scales.to_end, j, writes + 8 * j);
      if constexpr (Form::kDelta) {
        RoundTwice(writes + 8 * j, w[j], w_rest[j]);
      } else {
        Round(writes + 8 * j, w[j]);
      }
      Scale(scales.from_start, j, reads + 8 * j);
    }
    BeginProducts();
    AddToState(tokens.k, w, s_);
    if constexpr (Form::kDelta) AddToState(tokens.k, w_rest, s_);
    AddScores(operands.scores[0], u, reads);
    if constexpr (Form::kDelta) AddScores(operands.scores[0], u_rest, reads);
    EndProducts(reads, s_);
  }

  // The same with one operand in registers at a time.
  __device__ void UpdateInTurns(const ChunkTokens<Form>& tokens,
                                const ChunkOperands<Form::kDelta>& operands,
                                Fragment (&u)[4],
                                float (&writes)[32],
                                float (&reads)[32]) {
    const ChunkScales& scales = operands.scales;
#pragma unroll
    for (int j = 0; j < 4; ++j) Scale(scales.from_start, j, reads + 8 * j);
#pragma unroll
    for (int turn = 0; turn < 2; ++turn) {
      if (turn == 1) RoundRests(writes, u);
      BeginProducts();
      AddScores(operands.scores[0], u, reads);
      EndProducts(reads, s_);
      Pin(writes);
    }
#pragma unroll
    for (int j = 0; j < 4; ++j) {
      Scale(scales.to_end, j, writes + 8 * j);
      Round(writes + 8 * j, u[j]);
    }
#pragma unroll
    for (int turn = 0; turn < 2; ++turn) {
      if (turn == 1) RoundRests(writes, u);
      BeginProducts();
      AddToState(tokens.k, u, s_);
      EndProducts(reads, s_);
      Pin(writes);
    }
  }

  const int group_;
  const int warp_;
  float* const state_;
  float s_[kKeyTiles][32];
};

}  // namespace weir::engine
