// SPDX-License-Identifier: Apache-2.0
//
// With the delta rule: a warpgroup that carries the state of 64 values through
// a row's chunks, as chunk_carry.cuh does without:
//
//   W = S k^T, A = S q^T                       [64 values, 64 tokens]
//   R = beta (v^T - 2^g W), U = R T^T
//   out^T = 2^g A + U scores^T
//   S <- 2^g_last S + (U 2^(g_last - g)) k     [64 values, K]
//
// With a decay a key channel the operands bring the decays with them: k 2^G_i
// and q 2^G_i meet the state, whose channels decay by 2^G_last, and U is
// written along k 2^(G_last - G_i). Operands are fp16 (chunk_scale.cuh).
#pragma once

#include <cuda_fp16.h>

#include <type_traits>

#include "engine/kernels/cuda/chunk_fragment.cuh"
#include "engine/kernels/cuda/chunk_scale.cuh"
#include "engine/kernels/cuda/chunk_shared.cuh"
#include "engine/kernels/cuda/chunk_values.cuh"

namespace weir::engine {

template <typename Form>
class DeltaState : public ScaledRows<Form::kKeyTiles> {
 public:
  using ScaledRows<Form::kKeyTiles>::ScaledRows;

  __device__ void End(const StateMemory& state) {
    this->Store(PowerOfTwo(-this->exponent_), state);
  }

  // One chunk, whose values become out.
  __device__ void Step(int chunk,
                       ChunkTokens<Form>& tokens,
                       const typename Form::Operands& operands,
                       float out_scale) {
    const auto& scales = operands.scales;
    uint8_t* values = tokens.v[this->group_];
    if (chunk % kChunksOfScale == 0) this->ChooseScale(values);
    float sums[2][32] = {};  // W, then R, then U; A, then out
    Read(KeysOf(tokens, operands), sums);
    Fragment u[4];
    LoadValues(values, this->warp_, u);
    MakeRight(scales, sums, u);
    Solve(operands.inverse, scales, u, sums);
#pragma unroll
    for (int j = 0; j < 4; ++j) Round<kNumber>(sums[0] + 8 * j, u[j]);
    [[maybe_unused]] Fragment w[4];
    if constexpr (!Form::kChannel) MakeWrites(scales, u, w);
    BeginProducts();
    AddScores<kNumber>(operands.scores[0], u, sums[1]);
    CommitProducts();
    if constexpr (Form::kChannel) {
      AddToState<kNumber, kKeyTiles, kTileBytes>(
          operands.writes[0], u, this->s_);
    } else {
      AddToState<kNumber, kKeyTiles, sizeof(KeyTile)>(
          tokens.keys[0].k, w, this->s_);
    }
    CommitProducts();
    WaitProducts<1>();
    Pin(sums[1]);
    LeaveOut(
        sums[1], out_scale * PowerOfTwo(-this->exponent_), this->warp_, values);
    WaitProducts<0>();
    Pin(this->s_);
  }

 private:
  static constexpr int kKeyTiles = Form::kKeyTiles;
  static constexpr Number kNumber = Number::kHalf;
  using Scales = std::conditional_t<Form::kChannel, ChannelScales, ChunkScales>;
  using Keys = KeyTile[kKeyTiles];

  __device__ static const Keys& KeysOf(
      const ChunkTokens<Form>& tokens,
      const typename Form::Operands& operands) {
    if constexpr (Form::kChannel) {
      return operands.keys;
    } else {
      return tokens.keys;
    }
  }

  // W and A, both of the state at the chunk's start.
  __device__ void Read(const Keys& keys, float (&sums)[2][32]) {
    // Beside a state of 256 keys there are registers for two tiles' operands.
    constexpr int kAtOnce = kKeyTiles < 2 ? 1 : 2;
    if constexpr (kKeyTiles > 2) this->KeepStateInRange();
    Fragment s[kAtOnce][4];
#pragma unroll
    for (int first = 0; first < kKeyTiles; first += kAtOnce) {
      uint32_t bits = 0;
      if (first > 0) WaitProducts<0>();
#pragma unroll
      for (int i = 0; i < kAtOnce; ++i)
        bits |= this->RoundTile(first + i, s[i]);
      if (kKeyTiles <= 2 && __any_sync(0xffffffffU, bits != 0)) {
        this->RescaleState();
#pragma unroll
        for (int i = 0; i < kAtOnce; ++i) this->RoundTile(i, s[i]);
      }
      BeginProducts();
#pragma unroll
      for (int i = 0; i < 4 * kAtOnce; ++i) {
        MultiplyAdd<kNumber, false>(
            sums,
            s[i / 4][i % 4],
            TileOperand(&keys[first + i / 4]) + i % 4 * kColumns16,
            first + i > 0);
      }
      CommitProducts();
    }
    WaitProducts<0>();
    Pin(sums);
  }

  // R in place of W, and rounded in place of v^T.
  __device__ void MakeRight(const Scales& scales,
                            float (&sums)[2][32],
                            Fragment (&r)[4]) {
    const uint32_t bits =
        SubtractReads(scales, PowerOfTwo(this->exponent_), sums[0], r);
    if (!__any_sync(0xffffffffU, (bits & 0x40004000U) != 0)) return;
    const float most = this->LargestOf(sums[0]);
    const float shift = this->Shift(LargestExponent(most), -1);
    this->ScaleState(shift);
#pragma unroll
    for (int i = 0; i < 32; ++i) {
      sums[0][i] *= shift;
      sums[1][i] *= shift;
    }
#pragma unroll
    for (int j = 0; j < 4; ++j) Round<kNumber>(sums[0] + 8 * j, r[j]);
  }

  // U in place of W. Meanwhile the state decays over the chunk, and what has
  // been read of it.
  __device__ void Solve(const uint8_t (*inverse)[kTileBytes],
                        const Scales& scales,
                        const Fragment (&r)[4],
                        float (&sums)[2][32]) {
    const uint64_t number = TileOperand(inverse[0]);
    if constexpr (kKeyTiles > 2) {
      const uint64_t rest = TileOperand(inverse[1]);
      BeginProducts();
#pragma unroll
      for (int j = 0; j < 8; ++j) {
        MultiplyAdd<kNumber, false>(
            sums[0],
            r[j % 4],
            (j < 4 ? rest : number) + j % 4 * kColumns16,
            j > 0);
      }
      CommitProducts();
      Decay(scales, sums[1]);
      WaitProducts<0>();
      Pin(sums[0]);
    } else {
      float u[2][32];
      BeginProducts();
#pragma unroll
      for (int j = 0; j < 4; ++j) {
        MultiplyAdd<kNumber, false>(u, r[j], number + j * kColumns16, j > 0);
      }
      CommitProducts();
      Decay(scales, sums[1]);
      WaitProducts<0>();
      Pin(u);
#pragma unroll
      for (int i = 0; i < 32; ++i) sums[0][i] = u[0][i] + u[1][i];
    }
  }
  __device__ void Decay(const Scales& scales, float (&reads)[32]) {
    if constexpr (Form::kChannel) {
#pragma unroll
      for (int tile = 0; tile < kKeyTiles; ++tile) {
#pragma unroll
        for (int j = 0; j < 4; ++j) {
          Scale(scales.key_decay + 64 * tile, j, this->s_[tile] + 8 * j);
        }
      }
#pragma unroll
      for (int i = 0; i < 32; ++i) reads[i] /= kReadScale;
    } else {
      this->ScaleState(scales.from_start[kChunkTokens - 1]);
#pragma unroll
      for (int j = 0; j < 4; ++j) Scale(scales.from_start, j, reads + 8 * j);
    }
    Pin(this->s_);
    Pin(reads);
  }
};

}  // namespace weir::engine
