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
// Operands are fp16, whose range is made to do: a warp has its 16 values times
// a power of two, chosen anew where their state or what is written to it leaves
// the range. No value depends on another's scale but by what underflows, 2^-24
// of the largest.
#pragma once

#include <cuda_bf16.h>

#include "engine/kernels/cuda/chunk_fragment.cuh"
#include "engine/kernels/cuda/chunk_shared.cuh"
#include "engine/kernels/cuda/chunk_state.cuh"
#include "engine/kernels/cuda/chunk_values.cuh"

namespace weir::engine {

__device__ inline float PowerOfTwo(int exponent) {
  return __int_as_float((exponent + 127) << 23);
}
// The exponent of the largest of a warp's numbers, none of them negative: -127
// for zero, 128 for what is no number.
__device__ inline int LargestExponent(float x) {
  const uint32_t bits = __reduce_max_sync(0xffffffffU, __float_as_uint(x));
  return static_cast<int>(bits >> 23) - 127;
}

template <typename Form>
class DeltaState : public StateRows<Form::kKeyTiles> {
 public:
  using StateRows<Form::kKeyTiles>::StateRows;

  __device__ void End() { this->Store(PowerOfTwo(-exponent_)); }

  // One chunk, of which `count` tokens are written to out, this block's first
  // value's.
  __device__ void Step(int chunk,
                       ChunkTokens<Form>& tokens,
                       const ChunkOperands<true>& operands,
                       int count,
                       __nv_bfloat16* out,
                       int64_t stride) {
    const ChunkScales& scales = operands.scales;
    uint8_t* values = tokens.v[this->group_];
    if (chunk % kChunksOfScale == 0) ChooseScale(values);
    float writes[32] = {};  // W, then R, then U
    float reads[32] = {};   // A, then out
    Read(tokens, writes, reads);
    Fragment u[4];
    LoadValues(values, this->warp_, u);
    const float shift = MakeRight(scales, writes, u);
    Solve(operands.inverse, u, writes);
    Decay(scales, shift, reads);
    WaitProducts<0>();
    Pin(writes);
    Fragment w[4];
#pragma unroll
    for (int j = 0; j < 4; ++j) {
      Round<kNumber>(writes + 8 * j, u[j]);
      Scale(scales.to_end, j, writes + 8 * j);
      Round<kNumber>(writes + 8 * j, w[j]);
    }
    BeginProducts();
    AddScores<kNumber>(operands.scores[0], u, reads);
    CommitProducts();
    AddToState<kNumber>(tokens.k, w, this->s_);
    CommitProducts();
    WaitProducts<1>();
    Pin(reads);
    WriteOut(reads,
             PowerOfTwo(-exponent_),
             values,
             this->warp_,
             count,
             out + 64 * this->group_,
             stride);
    WaitProducts<0>();
#pragma unroll
    for (int tile = 0; tile < kKeyTiles; ++tile) Pin(this->s_[tile]);
    KeepStateInRange();
  }

 private:
  static constexpr int kKeyTiles = Form::kKeyTiles;
  static constexpr Number kNumber = Number::kHalf;
  // After so many chunks a scale is chosen anew, which a state or values that
  // have become small may need.
  static constexpr int kChunksOfScale = 4;
  static constexpr int kExponentMost = 60;
  // The state's largest number is between 2^-2 and 2^-1 then; values, of which
  // many make one number of it, may be 8 times as large.
  static constexpr int kStateExponent = -2;
  static constexpr float kValueShare = 0.125F;

  // Takes numbers up to 2^exponent to the wanted size; the factor that does it.
  __device__ float Shift(int exponent, int wanted) {
    if (exponent == -127 || exponent == 128) return 1.0F;
    const int before = exponent_;
    exponent_ =
        min(max(before + wanted - exponent, -kExponentMost), kExponentMost);
    return PowerOfTwo(exponent_ - before);
  }
  __device__ float LargestOfState() const {
    float most = 0.0F;
#pragma unroll
    for (int tile = 0; tile < kKeyTiles; ++tile) {
#pragma unroll
      for (int i = 0; i < 32; ++i) most = fmaxf(most, fabsf(this->s_[tile][i]));
    }
    return most;
  }
  __device__ void ScaleState(float factor) {
#pragma unroll
    for (int tile = 0; tile < kKeyTiles; ++tile) {
#pragma unroll
      for (int i = 0; i < 32; ++i) this->s_[tile][i] *= factor;
    }
  }

  __device__ void ChooseScale(const uint8_t* values) {
    Fragment v[4];
    LoadValues(values, this->warp_, v);
    float most = 0.0F;
#pragma unroll
    for (int i = 0; i < 16; ++i) {
      const float2 pair = Unpack<Number::kBfloat>(v[i / 4][i % 4]);
      most = fmaxf(most, fmaxf(fabsf(pair.x), fabsf(pair.y)));
    }
    most *= kValueShare * PowerOfTwo(exponent_);
    most = fmaxf(most, LargestOfState());
    ScaleState(Shift(LargestExponent(most), kStateExponent));
  }

  // Below 2 a number's exponent has no high bit.
  __device__ void KeepStateInRange() {
    uint32_t bits = 0;
#pragma unroll
    for (int tile = 0; tile < kKeyTiles; ++tile) {
#pragma unroll
      for (int i = 0; i < 32; ++i) bits |= __float_as_uint(this->s_[tile][i]);
    }
    if (__any_sync(0xffffffffU, (bits & 0x40000000U) != 0)) {
      ScaleState(Shift(LargestExponent(LargestOfState()), kStateExponent));
    }
  }

  // Puts W and then A, both of the state at the chunk's start, under way, and
  // waits for W; beside a state of 256 keys there are registers for two tiles'
  // operands.
  __device__ void Read(const ChunkTokens<Form>& tokens,
                       float (&writes)[32],
                       float (&reads)[32]) {
    constexpr int kAtOnce = kKeyTiles < 2 ? 1 : 2;
    Fragment s[kAtOnce][1][4];
#pragma unroll
    for (int tile = 0; tile < kKeyTiles; ++tile) {
      auto& rounded = s[tile % kAtOnce];
      if (tile >= kAtOnce) WaitProducts<kAtOnce - 1>();
#pragma unroll
      for (int j = 0; j < 4; ++j) {
        Round<kNumber>(this->s_[tile] + 8 * j, rounded[0][j]);
      }
      if (kKeyTiles <= 2) continue;
      BeginProducts();
      MultiplyState<kNumber>(rounded, tokens.k + tile, tile > 0, writes);
      MultiplyState<kNumber>(rounded, tokens.q + tile, tile > 0, reads);
      CommitProducts();
    }
    if constexpr (kKeyTiles <= 2) {
      BeginProducts();
#pragma unroll
      for (int tile = 0; tile < kKeyTiles; ++tile) {
        MultiplyState<kNumber>(s[tile], tokens.k + tile, tile > 0, writes);
      }
      CommitProducts();
#pragma unroll
      for (int tile = 0; tile < kKeyTiles; ++tile) {
        MultiplyState<kNumber>(s[tile], tokens.q + tile, tile > 0, reads);
      }
      CommitProducts();
      WaitProducts<1>();
    } else {
      WaitProducts<0>();
    }
    Pin(writes);
  }

  // R rounded, from W and v^T in `r`; the factor by which the scale has
  // changed.
  __device__ float MakeRight(const ChunkScales& scales,
                             float (&writes)[32],
                             Fragment (&r)[4]) {
    const float scale = PowerOfTwo(exponent_);
    const int lane = Lane();
    uint32_t bits = 0;
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
        const float2 v = Unpack<Number::kBfloat>(r[j][i]);
        pair[0] = beta.x * scale * v.x - decay.x * pair[0];
        pair[1] = beta.y * scale * v.y - decay.y * pair[1];
      }
      Round<kNumber>(values, r[j]);
#pragma unroll
      for (int i = 0; i < 4; ++i) bits |= r[j][i];
    }
    if (!__any_sync(0xffffffffU, (bits & 0x40004000U) != 0)) return 1.0F;
    float most = 0.0F;
#pragma unroll
    for (int i = 0; i < 32; ++i) most = fmaxf(most, fabsf(writes[i]));
    const float shift = Shift(LargestExponent(most), -1);
#pragma unroll
    for (int i = 0; i < 32; ++i) writes[i] *= shift;
#pragma unroll
    for (int j = 0; j < 4; ++j) Round<kNumber>(writes + 8 * j, r[j]);
    return shift;
  }

  // Puts U under way.
  __device__ void Solve(const uint8_t (*inverse)[kTileBytes],
                        const Fragment (&r)[4],
                        float (&u)[32]) {
    const uint64_t number = TileOperand(inverse[0]);
    const uint64_t rest = TileOperand(inverse[1]);
    BeginProducts();
#pragma unroll
    for (int j = 0; j < 4; ++j) {
      MultiplyAdd<kNumber, false>(u, r[j], rest + j * kColumns16, j > 0);
    }
#pragma unroll
    for (int j = 0; j < 4; ++j) {
      MultiplyAdd<kNumber, false>(u, r[j], number + j * kColumns16, true);
    }
    CommitProducts();
  }

  // The state's decay over the chunk, and that of what is read of it, whose
  // products are under way before U's.
  __device__ void Decay(const ChunkScales& scales,
                        float shift,
                        float (&reads)[32]) {
    ScaleState(shift * scales.from_start[kChunkTokens - 1]);
    WaitProducts<1>();
    Pin(reads);
#pragma unroll
    for (int j = 0; j < 4; ++j) Scale(scales.from_start, j, reads + 8 * j);
    if (shift == 1.0F) return;
#pragma unroll
    for (int i = 0; i < 32; ++i) reads[i] *= shift;
  }

  int exponent_ = 0;  // of the scale
};

}  // namespace weir::engine
