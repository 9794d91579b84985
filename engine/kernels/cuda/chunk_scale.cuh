// SPDX-License-Identifier: Apache-2.0
//
// How the state of a warp's 16 values is kept in the range of fp16: times a
// power of two, chosen anew where the state or what is written to it leaves the
// range. No value depends on another's scale but by what underflows, 2^-24 of
// the largest.
#pragma once

#include "engine/kernels/cuda/chunk_fragment.cuh"
#include "engine/kernels/cuda/chunk_state.cuh"
#include "engine/kernels/cuda/chunk_values.cuh"

namespace weir::engine {

// After so many chunks a scale is chosen anew, which a state or values that
// have become small may need.
inline constexpr int kChunksOfScale = 4;

__device__ inline float PowerOfTwo(int exponent) {
  return __int_as_float((exponent + 127) << 23);
}
// The exponent of the largest of a warp's numbers, none of them negative: -127
// for zero, 128 for what is no number.
__device__ inline int LargestExponent(float x) {
  const uint32_t bits = __reduce_max_sync(0xffffffffU, __float_as_uint(x));
  return static_cast<int>(bits >> 23) - 127;
}

template <int kKeyTiles>
class ScaledRows : public StateRows<kKeyTiles> {
 public:
  using StateRows<kKeyTiles>::StateRows;

 protected:
  // Takes numbers up to 2^exponent to the wanted size; the factor that does it.
  __device__ float Shift(int exponent, int wanted) {
    if (exponent == -127 || exponent == 128) return 1.0F;
    const int before = exponent_;
    exponent_ =
        min(max(before + wanted - exponent, -kExponentMost), kExponentMost);
    return PowerOfTwo(exponent_ - before);
  }
  __device__ static float LargestOf(const float (&x)[32]) {
    float most = 0.0F;
#pragma unroll
    for (int i = 0; i < 32; ++i) most = fmaxf(most, fabsf(x[i]));
    return most;
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

  // A tile of the state rounded. Below 2 a number's exponent has no high bit.
  __device__ uint32_t RoundTile(int tile, Fragment (&rounded)[4]) {
    uint32_t bits = 0;
#pragma unroll
    for (int j = 0; j < 4; ++j) {
      Round<Number::kHalf>(this->s_[tile] + 8 * j, rounded[j]);
#pragma unroll
      for (int i = 0; i < 4; ++i) bits |= rounded[j][i];
    }
    return bits & 0x40004000U;
  }
  __device__ void KeepStateInRange() {
    uint32_t bits = 0;
#pragma unroll
    for (int tile = 0; tile < kKeyTiles; ++tile) {
#pragma unroll
      for (int i = 0; i < 32; ++i) bits |= __float_as_uint(this->s_[tile][i]);
    }
    if (__any_sync(0xffffffffU, (bits & 0x40000000U) != 0)) RescaleState();
  }
  __device__ void RescaleState() {
    ScaleState(Shift(LargestExponent(LargestOfState()), kStateExponent));
  }

  int exponent_ = 0;  // of the scale

 private:
  static constexpr int kExponentMost = 60;
  // The state's largest number is between 2^-2 and 2^-1 then; values, of which
  // many make one number of it, may be 8 times as large.
  static constexpr int kStateExponent = -2;
  static constexpr float kValueShare = 0.125F;
};

}  // namespace weir::engine
