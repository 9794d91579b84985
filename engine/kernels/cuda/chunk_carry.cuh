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
        warp_(__shfl_sync(0xffffffffU, threadIdx.x % kWarpgroup / 32, 0)),
        state_(state + (64 * group + 16 * warp_ + Lane() / 4) * kKeyDim +
               2 * (Lane() & 3)) {}

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
    WriteOut(values, count, out, stride);
  }

 private:
  static constexpr int kKeyTiles = Form::kKeyTiles;
  static constexpr int kKeyDim = 64 * kKeyTiles;
  // A state of 256 keys leaves no registers for all operands of a step at once.
  static constexpr bool kFrugal = kKeyTiles == 4 && Form::kDelta;
  // Key tiles whose operands fit in registers together.
  static constexpr int kTilesAtOnce = kFrugal || kKeyTiles < 2 ? 1 : 2;

  // A warp has 16 values of each token.
  __device__ void WriteOut(const uint8_t* values,
                           int count,
                           __nv_bfloat16* out,
                           int64_t stride) const {
    const int lane = Lane();
    const int piece = 2 * warp_ + (lane & 1);
    __nv_bfloat16* to = out + lane / 2 * stride + 64 * group_ + 8 * piece;
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const int token = lane / 2 + 16 * i;
      const uint4 x =
          *reinterpret_cast<const uint4*>(values + PieceOffset(token, piece));
      if (token < count) *reinterpret_cast<uint4*>(to + 16 * i * stride) = x;
    }
  }

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

  // sums (+)= s rows^T.
  __device__ static void MultiplyState(const Fragment (&s)[kTilesAtOnce][4],
                                       const uint8_t (*rows)[kTileBytes],
                                       bool add,
                                       float (&sums)[32]) {
#pragma unroll
    for (int i = 0; i < kTilesAtOnce; ++i) {
#pragma unroll
      for (int j = 0; j < 4; ++j) {
        MultiplyAdd<false>(sums,
                           s[i][j],
                           TileOperand(rows[i]) + j * kColumns16,
                           add || i + j > 0);
      }
    }
    CommitProducts();
  }

  __device__ static void Unpack(const Fragment (&v)[4], float (&values)[32]) {
#pragma unroll
    for (int i = 0; i < 16; ++i) {
      values[2 * i] = Low(v[i / 4][i % 4]);
      values[2 * i + 1] = High(v[i / 4][i % 4]);
    }
  }

  // U, from W in `writes` and v^T: there in full, in v and u_rest rounded.
  __device__ void Solve(const uint8_t (*inverse)[kTileBytes],
                        const ChunkScales& scales,
                        float (&writes)[32],
                        Fragment (&v)[4],
                        Fragment (&u_rest)[4]) const {
const int lane = Lane();
#pragma unroll
    for (int j = 0; j < 4; ++j) {
      float* values = writes + 8 * j;
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        float* pair = values + 2 * i;
        const int token = 16 * j + i / 2 * 8 + 2 * (lane & 3);
        const float2 beta =
            *reinterpret_cast<const float2*>(&scales.beta[token]);
        const float2 decay =
            *reinterpret_cast<const float2*>(&scales.beta_from_start[token]);
        pair[0] = beta.x * Low(v[j][i]) - decay.x * pair[0];
        pair[1] = beta.y * High(v[j][i]) - decay.y * pair[1];
      }
      RoundTwice(values, v[j], u_rest[j]);
    }
    const uint64_t number = TileOperand(inverse[0]);
    const uint64_t rest = TileOperand(inverse[1]);
    BeginProducts();
#pragma unroll
    for (int j = 0; j < 4; ++j) {
      MultiplyAdd<false>(writes, v[j], rest + j * kColumns16, j > 0);
      MultiplyAdd<false>(writes, u_rest[j], number + j * kColumns16, true);
    }
#pragma unroll
    for (int j = 0; j < 4; ++j) {
      MultiplyAdd<false>(writes, v[j], number + j * kColumns16, true);
    }
    CommitProducts();
    WaitProducts<0>();
    Pin(writes);
#pragma unroll
    for (int j = 0; j < 4; ++j) RoundTwice(writes + 8 * j, v[j], u_rest[j]);
  }

  // out and the new state, from A in `reads` and U in `writes`, which is in u and
  // u_rest rounded.
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
    AddToState(tokens, w);
    if constexpr (Form::kDelta) AddToState(tokens, w_rest);
    AddScores(operands.scores[0], u, reads);
    if constexpr (Form::kDelta) AddScores(operands.scores[0], u_rest, reads);
    EndProducts(reads);
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
      EndProducts(reads);
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
      AddToState(tokens, u);
      EndProducts(reads);
      Pin(writes);
    }
  }

  // What Round left of the values, in place of what it gave.
  __device__ static void RoundRests(const float (&values)[32],
                                    Fragment (&rounded)[4]) {
#pragma unroll
    for (int i = 0; i < 16; ++i) {
      uint32_t& pair = rounded[i / 4][i % 4];
      pair = PackRest(values[2 * i], values[2 * i + 1], pair);
    }
  }

  // out^T += u scores^T.
  __device__ static void AddScores(const uint8_t* tile,
                                   const Fragment (&u)[4],
                                   float (&reads)[32]) {
    const uint64_t scores = TileOperand(tile);
#pragma unroll
    for (int j = 0; j < 4; ++j) {
      MultiplyAdd<false>(reads, u[j], scores + j * kColumns16, true);
    }
  }

  // S += w k.
  __device__ void AddToState(const ChunkTokens<Form>& tokens,
                             const Fragment (&w)[4]) {
#pragma unroll
    for (int tile = 0; tile < kKeyTiles; ++tile) {
      const uint64_t k = TileOperand(tokens.k[tile]);
#pragma unroll
      for (int j = 0; j < 4; ++j) {
        MultiplyAdd<true>(s_[tile], w[j], k + j * kRows16, true);
      }
    }
  }

  __device__ void EndProducts(float (&reads)[32]) {
    CommitProducts();
    WaitProducts<0>();
    Pin(reads);
#pragma unroll
    for (int tile = 0; tile < kKeyTiles; ++tile) Pin(s_[tile]);
  }

  // values, 16 tokens of them, by a factor a token.
  __device__ void Scale(const float* factors, int j, float* values) const {
const int lane = Lane();
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const float2 factor = *reinterpret_cast<const float2*>(
          &factors[16 * j + 8 * half + 2 * (lane & 3)]);
#pragma unroll
      for (int i = 4 * half; i < 4 * half + 4; i += 2) {
        values[i] *= factor.x;
        values[i + 1] *= factor.y;
      }
    }
  }

  const int group_;
  const int warp_;
  float* const state_;
  float s_[kKeyTiles][32];
};

}  // namespace weir::engine
