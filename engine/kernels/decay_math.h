// SPDX-License-Identifier: Apache-2.0
//
// What a decay takes away, in fp64.
//
// Threads: plain functions. Included by the target files only.
#pragma once

#include <stdint.h>

#include "engine/kernels/vector_math.h"

namespace weir::engine {
namespace {

// 2^x - 1 for x <= 0 in fp64, its relative error small near zero too: a decay
// next to one is kept as what it takes away, which fp32 holds to its last bit.
WEIR_INLINE double Exp2Minus1(double x) {
  if (!(x > -1000)) return x != x ? x : -1.0;
  const int n = static_cast<int>(x - 0.5);
  const double f = x - n;
  double p = 7.0549116208011233e-9;
  p = p * f + 1.0178086009239699e-7;
  p = p * f + 1.3215486790144307e-6;
  p = p * f + 1.5252733804059841e-5;
  p = p * f + 1.5403530393381608e-4;
  p = p * f + 1.3333558146428443e-3;
  p = p * f + 9.6181291076284772e-3;
  p = p * f + 5.5504108664821580e-2;
  p = p * f + 2.4022650695910071e-1;
  p = p * f + 6.9314718055994531e-1;
  p = p * f;
  const int64_t bits = static_cast<int64_t>(n + 1023) << 52;
  const double scale = __builtin_bit_cast(double, bits);
  return scale * p + (scale - 1);
}

// How to decay in fp32: x d + y as carry x + (scale x + y). Next to one the
// part that is taken away is added to what is written before it meets x, so
// that x is rounded once and what is smaller than x's last bit is not lost:
// over 100,000 tokens at 2^-1e-7 each the state's error falls from 1e-3 to
// 6e-6.
struct Decay {
  float carry;  // 1 or 0
  float scale;  // d - 1, or d
};

WEIR_INLINE Decay DecayOf(double log2_decay) {
  const double change = Exp2Minus1(log2_decay);
  if (change < -0.5) return {0.0F, static_cast<float>(1 + change)};
  return {1.0F, static_cast<float>(change)};
}

// The same over vectors in fp32, to its last bits: below 1/2 what is kept,
// above it what is taken away.
struct DecayVec {
  Vec carry;
  Vec scale;
};

// Whether what is taken away is held: where carry is 1.
WEIR_INLINE auto IsNearOne(Vec log2_decay) {
  return log2_decay >= Broadcast(-0.5F);
}

WEIR_INLINE DecayVec DecayVecOf(Vec log2_decay) {
  const Vec zero = {};
  const Vec one = Broadcast(1.0F);
  const Vec low = Broadcast(-151.0F);
  const Vec x = AtLeast(low, log2_decay);
  const Vec n = Round(x);
  const Vec f = x - n;
  // 2^f - 1 is p f, and from -1/2 on n is 0.
  Vec p = Broadcast(1.52527338e-5F);
  p = Fma(p, f, Broadcast(1.54035304e-4F));
  p = Fma(p, f, Broadcast(1.33335581e-3F));
  p = Fma(p, f, Broadcast(9.61812911e-3F));
  p = Fma(p, f, Broadcast(5.55041087e-2F));
  p = Fma(p, f, Broadcast(2.40226507e-1F));
  p = Fma(p, f, Broadcast(6.93147181e-1F));
  const Vec kept = ScaleByPowerOfTwo(Fma(p, f, one), n);
  DecayVec decay;
  // A NaN is on neither side, and stays one as a scale.
  decay.carry = IsNearOne(log2_decay) ? one : zero;
  decay.scale = IsNearOne(log2_decay) ? p * f : kept;
  return decay;
}

}  // namespace
}  // namespace weir::engine
