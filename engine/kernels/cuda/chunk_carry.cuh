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

namespace weir::engine {

template <typename Form>
class CarriedState {
 public:
  // `state` is this block's first value's, [V, K].
  __device__ CarriedState(int group, float* state)
      : group_(group),
        warp_(static_cast<int>(threadIdx.x) % kWarpgroup / 32),
        lane_(static_cast<int>(threadIdx.x) & 31),
        state_(state + (64 * group + 16 * warp_ + lane_ / 4) * kKeyDim +
               2 * (lane_ & 3)) {}

  __device__ void Load(bool fresh) {
    ForEachPair([&](float* pair, float* at) {
      const float2 x = fresh ? float2{0.0F, 0.0F}
                             : *reinterpret_cast<const float2*>(at);
      pair[0] = x.x;
      pair[1] = x.y;
    });
  }
  __device__ void Store() {
    ForEachPair([](float* pair, float* at) {
      *reinterpret_cast<float2*>(at) = float2{pair[0], pair[1]};
    });
  }

  // One chunk; its out is left in tokens.v.
  __device__ void Step(ChunkTokens<Form>& tokens,
                       const ChunkOperands& operands) {
    const ChunkScales& scales = operands.scales;
    float writes[32];  // W, then U
    float reads[32];   // A, then out
    Read(tokens, scales.from_start[kChunkTokens - 1], writes, reads);
    Fragment u[4];
    Fragment u_rest[4];
    uint8_t* v = tokens.v[group_];
    LoadValues(v, scales, writes, u, u_rest);
    if constexpr (Form::kDelta) Solve(operands.inverse, writes, u, u_rest);
    // Rounded for the scores, and from here on with its decay for the state.
    Fragment w[4];
    Fragment w_rest[4];
#pragma unroll
    for (int j = 0; j < 4; ++j) {
      float* values = writes + 8 * j;
      if constexpr (Form::kDelta) RoundTwice(values, u[j], u_rest[j]);
      Scale(scales.to_end, j, values);
      if constexpr (Form::kDelta) {
        RoundTwice(values, w[j], w_rest[j]);
      } else {
        Round(values, w[j]);
      }
      Scale(scales.from_start, j, reads + 8 * j);
    }
    BeginProducts();
#pragma unroll
    for (int tile = 0; tile < kKeyTiles; ++tile) {
      const uint64_t k = TileOperand(tokens.k[tile]);
#pragma unroll
      for (int j = 0; j < 4; ++j) {
        MultiplyAdd<true>(s_[tile], w[j], k + j * kRows16, true);
        if constexpr (Form::kDelta) {
          MultiplyAdd<true>(s_[tile], w_rest[j], k + j * kRows16, true);
        }
      }
    }
    const uint64_t scores = TileOperand(operands.scores);
#pragma unroll
    for (int j = 0; j < 4; ++j) {
      MultiplyAdd<false>(reads, u[j], scores + j * kColumns16, true);
      if constexpr (Form::kDelta) {
        MultiplyAdd<false>(reads, u_rest[j], scores + j * kColumns16, true);
      }
    }
    CommitProducts();
    WaitProducts<0>();
#pragma unroll
    for (int tile = 0; tile < kKeyTiles; ++tile) Pin(s_[tile]);
    Pin(reads);
#pragma unroll
    for (int j = 0; j < 4; ++j) {
      Fragment out;
      Round(reads + 8 * j, out);
      StoreBlocksTransposed(TurnedAddress(SharedAddress(v), warp_, j), out);
    }
    __syncwarp();
  }

  // Writes what Step left to the first `count` tokens of out, which is this
  // block's first value's: a warp has 16 values of each token.
  __device__ void WriteOut(const ChunkTokens<Form>& tokens,
                           int count,
                           __nv_bfloat16* out,
                           int64_t stride) const {
    const int piece = 2 * warp_ + (lane_ & 1);
    const uint8_t* from = tokens.v[group_];
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const int token = lane_ / 2 + 16 * i;
      const uint4 x =
          *reinterpret_cast<const uint4*>(from + PieceOffset(token, piece));
      if (token < count) {
        *reinterpret_cast<uint4*>(out + token * stride + 64 * group_ +
                                  8 * piece) = x;
      }
    }
  }

 private:
  static constexpr int kKeyTiles = Form::kKeyTiles;
  static constexpr int kKeyDim = 64 * kKeyTiles;
  // Key tiles whose operands fit in registers together.
  static constexpr int kTilesAtOnce = kKeyTiles < 2 ? kKeyTiles : 2;

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

  // W and A, both of the state at the chunk's start; then decays it.
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
#pragma unroll
      for (int i = 0; i < kTilesAtOnce; ++i) {
        const int tile = first + i;
#pragma unroll
        for (int j = 0; j < 4; ++j) {
          const bool add = tile + j > 0;
          if constexpr (Form::kDelta) {
            MultiplyAdd<false>(writes,
                               s[i][j],
                               TileOperand(tokens.k[tile]) + j * kColumns16,
                               add);
          }
          MultiplyAdd<false>(reads,
                             s[i][j],
                             TileOperand(tokens.q[tile]) + j * kColumns16,
                             add);
        }
      }
      CommitProducts();
      WaitProducts<0>();
      if constexpr (Form::kDelta) Pin(writes);
      Pin(reads);
    }
  }

  // With the delta rule R into u and u_rest, else v^T into u and `writes`.
  __device__ void LoadValues(const uint8_t* v,
                             const ChunkScales& scales,
                             float (&writes)[32],
                             Fragment (&u)[4],
                             Fragment (&u_rest)[4]) const {
#pragma unroll
    for (int j = 0; j < 4; ++j) {
      Fragment x;
      LoadBlocksTransposed(TurnedAddress(SharedAddress(v), warp_, j), x);
      float* values = writes + 8 * j;
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        float* pair = values + 2 * i;
        if constexpr (Form::kDelta) {
          const int token = 16 * j + i / 2 * 8 + 2 * (lane_ & 3);
          const float2 beta =
              *reinterpret_cast<const float2*>(&scales.beta[token]);
          const float2 decay =
              *reinterpret_cast<const float2*>(&scales.beta_from_start[token]);
          pair[0] = beta.x * Low(x[i]) - decay.x * pair[0];
          pair[1] = beta.y * High(x[i]) - decay.y * pair[1];
        } else {
          u[j][i] = x[i];
          pair[0] = Low(x[i]);
          pair[1] = High(x[i]);
        }
      }
      if constexpr (Form::kDelta) RoundTwice(values, u[j], u_rest[j]);
    }
  }

  // U from R, into `writes`.
  __device__ void Solve(const TwiceTile& inverse,
                        float (&writes)[32],
                        const Fragment (&r)[4],
                        const Fragment (&r_rest)[4]) const {
    const uint64_t number = TileOperand(inverse.number);
    const uint64_t rest = TileOperand(inverse.rest);
    BeginProducts();
#pragma unroll
    for (int j = 0; j < 4; ++j) {
      MultiplyAdd<false>(writes, r[j], rest + j * kColumns16, j > 0);
      MultiplyAdd<false>(writes, r_rest[j], number + j * kColumns16, true);
    }
#pragma unroll
    for (int j = 0; j < 4; ++j) {
      MultiplyAdd<false>(writes, r[j], number + j * kColumns16, true);
    }
    CommitProducts();
    WaitProducts<0>();
    Pin(writes);
  }

  // values, 16 tokens of them, by a factor a token.
  __device__ void Scale(const float* factors, int j, float* values) const {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const float2 factor = *reinterpret_cast<const float2*>(
          &factors[16 * j + 8 * half + 2 * (lane_ & 3)]);
#pragma unroll
      for (int i = 4 * half; i < 4 * half + 4; i += 2) {
        values[i] *= factor.x;
        values[i + 1] *= factor.y;
      }
    }
  }

  const int group_;
  const int warp_;
  const int lane_;
  float* const state_;
  float s_[kKeyTiles][32];
};

}  // namespace weir::engine
