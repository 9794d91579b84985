// SPDX-License-Identifier: Apache-2.0
//
// One token's step of the recurrence on a tile of the state. Of each row s of
// V, with what the token brings of it, both products come from one read of s:
//
//   head, delta   u = beta (v - d (s . k));  s = d s + u k;
//                 o = d (s . q) + u (k . q)      the products of the old s
//   pair          c = s . a;  s = d s + c b + v k;
//                 o = s . (d q) + c (b . q) + v (k . q)
//
// A state that is held as two floats is read after the write instead.
//
// Threads: all of a block call together.
#pragma once

#include <cstdint>

#include "engine/kernels/cuda/state_tile.cuh"
#include "engine/kernels/cuda/summed_number.cuh"
#include "engine/kernels/recurrence.h"

namespace weir::engine {

enum class Correction {
  kNone,
  kDelta,  // along the key, of the decayed state; one decay a head
  kPair,   // b (a^T S) of the state before decay; a decay a key channel
};

// What a kernel is compiled for.
template <DecayKind kDecayIn,
          Correction kCorrectionIn,
          ReadOrder kReadIn,
          bool kHasRestIn = false,
          bool kHasSumsIn = false>
struct Rule {
  static constexpr DecayKind kDecay = kDecayIn;
  static constexpr Correction kCorrection = kCorrectionIn;
  static constexpr ReadOrder kRead = kReadIn;
  // The state is two floats; there are sums of keys. Either asks for one decay
  // a head, no correction and a read after the write.
  static constexpr bool kHasRest = kHasRestIn;
  static constexpr bool kHasSums = kHasSumsIn;
};

// What one token brings to a tile, in shared memory. b is the bonus times the
// key where the read stands before the write.
template <int kKeyDim, int kRows>
struct TokenOperands {
  alignas(16) float q[kKeyDim];
  alignas(16) float k[kKeyDim];
  alignas(16) float d[kKeyDim];  // 2^log2_decay of the key channels
  alignas(16) float a[kKeyDim];
  alignas(16) float b[kKeyDim];
  float v[kRows];
  float value_decay[kRows];
  float decay;  // of the head
  float beta;
  SummedDecay summed;  // the head's decay, as sums take it
};

template <int kLanes>
__device__ inline float SumOverLanes(float x) {
#pragma unroll
  for (int step = kLanes / 2; step > 0; step /= 2) {
    x += __shfl_xor_sync(0xffffffffU, x, step);
  }
  return x;
}

// f(i, column) for each of this thread's numbers of a row.
template <typename Tile, typename F>
__device__ inline void ForNumbers(F f) {
#pragma unroll
  for (int i = 0; i < kTileNumbers; ++i) f(i, Tile::Column(i));
}

// Takes the tile over one token. emit(row, o) is called by the first of the
// threads that hold a row.
template <typename R, typename Tile, typename Operands, typename Emit>
__device__ void StepToken(Tile& tile, const Operands& token, Emit emit) {
  constexpr bool kByKey = R::kDecay == DecayKind::kKey;
  constexpr bool kPair = R::kCorrection == Correction::kPair;
  constexpr bool kBefore = R::kRead == ReadOrder::kBeforeWrite;
  float kq = 0;
  float bq = 0;
  ForNumbers<Tile>([&](int, int c) {
    if constexpr (!kBefore) kq = fmaf(token.k[c], token.q[c], kq);
    if constexpr (kPair || kBefore) bq = fmaf(token.b[c], token.q[c], bq);
  });
  if constexpr (!kBefore) kq = SumOverLanes<Tile::kLanes>(kq);
  if constexpr (kPair || kBefore) bq = SumOverLanes<Tile::kLanes>(bq);
#pragma unroll
  for (int pass = 0; pass < Tile::kPasses; ++pass) {
    float* s = tile.numbers[pass];
    const int row = Tile::Row(pass);
    const float v = token.v[row];
    float read = 0;  // s . q, with the decay of the channels
    float met = 0;   // s . k, or s . a
    ForNumbers<Tile>([&](int i, int c) {
      const float q = kByKey && !kBefore ? token.d[c] * token.q[c] : token.q[c];
      read = fmaf(s[i], q, read);
      if constexpr (R::kCorrection == Correction::kDelta) {
        met = fmaf(s[i], token.k[c], met);
      }
      if constexpr (kPair) met = fmaf(s[i], token.a[c], met);
    });
    read = SumOverLanes<Tile::kLanes>(read);
    float o = read;
    float u = v;
    float decay = 1;
    if constexpr (R::kDecay == DecayKind::kHead) decay = token.decay;
    if constexpr (R::kDecay == DecayKind::kValue) {
      decay = token.value_decay[row];
    }
    if constexpr (R::kCorrection != Correction::kNone) {
      met = SumOverLanes<Tile::kLanes>(met);
    }
    if constexpr (R::kCorrection == Correction::kDelta) {
      u = token.beta * (v - decay * met);
    }
    if constexpr (!kByKey && !kBefore) o *= decay;
    if constexpr (kPair) o = fmaf(met, bq, o);
    o = fmaf(u, kBefore ? bq : kq, o);
    ForNumbers<Tile>([&](int i, int c) {
      float next = (kByKey ? token.d[c] : decay) * s[i];
      if constexpr (kPair) next = fmaf(met, token.b[c], next);
      s[i] = fmaf(u, token.k[c], next);
    });
    if (Tile::Lane() == 0) emit(row, o);
  }
}

// The same of the sum of two tiles, without a correction.
template <typename Tile, typename Operands, typename Emit>
__device__ void StepSummed(Tile& tile,
                           Tile& rest,
                           const Operands& token,
                           Emit emit) {
  const SummedDecay decay = token.summed;
#pragma unroll
  for (int pass = 0; pass < Tile::kPasses; ++pass) {
    float* s = tile.numbers[pass];
    float* r = rest.numbers[pass];
    const int row = Tile::Row(pass);
    const float v = token.v[row];
    float o = 0;
    ForNumbers<Tile>([&](int i, int c) {
      const SummedNumber x = Summed(decay, {s[i], r[i]}, v, token.k[c]);
      s[i] = x.high;
      r[i] = x.low;
      o = fmaf(x.high, token.q[c], o);
    });
    o = SumOverLanes<Tile::kLanes>(o);
    if (Tile::Lane() == 0) emit(row, o);
  }
}

}  // namespace weir::engine
