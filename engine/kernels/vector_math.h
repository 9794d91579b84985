// SPDX-License-Identifier: Apache-2.0
//
// Exponentials and their kin over vectors, as polynomials.
//
// Threads: plain functions. Included by the target files only.
#pragma once

#include "engine/kernels/vector.h"

namespace weir::engine {
namespace {

// x 2^n for whole n within [-252, 252], through zero and infinity.
WEIR_INLINE Vec ScaleByPowerOfTwo(Vec x, Vec n) {
#if defined(__AVX512F__)
  return _mm512_maskz_scalef_ps(0xFFFF, x, n);
#else
  // Two factors, since 2^n itself may not be a float.
  const IntVec whole = __builtin_convertvector(n, IntVec);
  const IntVec half = whole >> 1;
  const IntVec low = (half + 127) << 23;
  const IntVec high = (whole - half + 127) << 23;
  return x * __builtin_bit_cast(Vec, low) * __builtin_bit_cast(Vec, high);
#endif
}

// x, but no less than `low`; NaN for NaN.
WEIR_INLINE Vec AtLeast(Vec low, Vec x) {
#if defined(__AVX512F__)
  return _mm512_maskz_max_ps(0xFFFF, low, x);
#else
  return x < low ? low : x;
#endif
}

// To the nearest whole number, for |x| < 2^22.
WEIR_INLINE Vec Round(Vec x) {
  const Vec magic = Broadcast(0x1.8p23F);
  return (x + magic) - magic;
}

// 2^x for x <= 0, relative error below 2e-7; 0 far down, NaN for NaN.
WEIR_INLINE Vec Exp2(Vec x) {
  const Vec low = Broadcast(-151.0F);
  x = AtLeast(low, x);
  const Vec n = Round(x);
  const Vec f = x - n;
  Vec p = Broadcast(1.52527338e-5F);
  p = Fma(p, f, Broadcast(1.54035304e-4F));
  p = Fma(p, f, Broadcast(1.33335581e-3F));
  p = Fma(p, f, Broadcast(9.61812911e-3F));
  p = Fma(p, f, Broadcast(5.55041087e-2F));
  p = Fma(p, f, Broadcast(2.40226507e-1F));
  p = Fma(p, f, Broadcast(6.93147181e-1F));
  p = Fma(p, f, Broadcast(1.0F));
  return ScaleByPowerOfTwo(p, n);
}

// e^x, relative error below 2e-7; 0 and infinity at the ends, NaN for NaN.
WEIR_INLINE Vec Exp(Vec x) {
  const Vec low = Broadcast(-104.0F);
  const Vec high = Broadcast(89.5F);
  x = AtLeast(low, x);
  x = x > high ? high : x;
  const Vec n = Round(x * Broadcast(1.44269504F));
  // ln 2 in two parts; the first has so few bits that n times it is exact.
  Vec r = Fma(n, Broadcast(-0.693359375F), x);
  r = Fma(n, Broadcast(2.12194440e-4F), r);
  Vec p = Broadcast(1.98412698e-4F);
  p = Fma(p, r, Broadcast(1.38888889e-3F));
  p = Fma(p, r, Broadcast(8.33333333e-3F));
  p = Fma(p, r, Broadcast(4.16666667e-2F));
  p = Fma(p, r, Broadcast(1.66666667e-1F));
  p = Fma(p, r, Broadcast(0.5F));
  p = Fma(p, r, Broadcast(1.0F));
  p = Fma(p, r, Broadcast(1.0F));
  return ScaleByPowerOfTwo(p, n);
}

WEIR_INLINE Vec Sigmoid(Vec x) {
  const Vec one = Broadcast(1.0F);
  return one / (one + Exp(-x));
}

WEIR_INLINE Vec Silu(Vec x) { return x / (Broadcast(1.0F) + Exp(-x)); }

// Absolute error below 3e-7.
WEIR_INLINE Vec Tanh(Vec x) {
  const Vec one = Broadcast(1.0F);
  return one - Broadcast(2.0F) / (one + Exp(x + x));
}

// log(1 + z) for z in [0, 1], as 2 atanh(z / (2 + z)), whose series is short
// there and whose relative error stays small at small z.
WEIR_INLINE Vec Log1p(Vec z) {
  const Vec s = z / (Broadcast(2.0F) + z);
  const Vec s2 = s * s;
  Vec p = Broadcast(2.0F / 15);
  p = Fma(p, s2, Broadcast(2.0F / 13));
  p = Fma(p, s2, Broadcast(2.0F / 11));
  p = Fma(p, s2, Broadcast(2.0F / 9));
  p = Fma(p, s2, Broadcast(2.0F / 7));
  p = Fma(p, s2, Broadcast(2.0F / 5));
  p = Fma(p, s2, Broadcast(2.0F / 3));
  p = Fma(p, s2, Broadcast(2.0F));
  return p * s;
}

// log(1 + e^x): x itself far up, e^x far down.
WEIR_INLINE Vec Softplus(Vec x) {
  const Vec zero = {};
  const Vec above = x > zero ? x : zero;
  const Vec magnitude = x > zero ? x : -x;
  return above + Log1p(Exp(-magnitude));
}

}  // namespace
}  // namespace weir::engine
