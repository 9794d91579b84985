// SPDX-License-Identifier: Apache-2.0
//
// A vector of floats as wide as the target's registers, and the functions that
// the kernels are written in. Included by the target files only; the flags of
// the file decide what it is. Why all is in an unnamed namespace:
// kernel_table.h.
//
// Products are fused where Fma() says so and nowhere else (-ffp-contract=off),
// so a value does not depend on how the compiler cut a loop.
//
// Threads: plain functions.
#pragma once

#include <stdint.h>

#if defined(__AVX2__)
#include <immintrin.h>
#endif

#define WEIR_INLINE [[gnu::always_inline]] inline

namespace weir::engine {
namespace {

using Quad = float __attribute__((vector_size(16)));

#if defined(__AVX512F__)

constexpr int kLanes = 16;
constexpr int kTileVecs = 4;  // columns of a register tile, in vectors
using Vec = __m512;
using IntVec = int32_t __attribute__((vector_size(64)));

WEIR_INLINE Vec Load(const float* p) { return _mm512_loadu_ps(p); }
WEIR_INLINE void Store(float* p, Vec x) { _mm512_storeu_ps(p, x); }
WEIR_INLINE Vec LoadPart(const float* p, int n) {
  return _mm512_maskz_loadu_ps(static_cast<__mmask16>((1U << n) - 1), p);
}
WEIR_INLINE void StorePart(float* p, Vec x, int n) {
  _mm512_mask_storeu_ps(p, static_cast<__mmask16>((1U << n) - 1), x);
}
WEIR_INLINE Vec Broadcast(float x) { return _mm512_set1_ps(x); }
WEIR_INLINE Vec Fma(Vec a, Vec b, Vec c) { return _mm512_fmadd_ps(a, b, c); }

// The four sums over the lanes of a, b, c and d. Masked forms with nothing
// masked, since GCC 12 warns that the plain ones read what is undefined.
WEIR_INLINE Quad SumLanes(Vec a, Vec b, Vec c, Vec d) {
  constexpr __mmask16 kAll = 0xFFFF;
  const Vec ab = _mm512_maskz_unpacklo_ps(kAll, a, b) +
                 _mm512_maskz_unpackhi_ps(kAll, a, b);
  const Vec cd = _mm512_maskz_unpacklo_ps(kAll, c, d) +
                 _mm512_maskz_unpackhi_ps(kAll, c, d);
  const Vec abcd = _mm512_maskz_shuffle_ps(kAll, ab, cd, 0x44) +
                   _mm512_maskz_shuffle_ps(kAll, ab, cd, 0xEE);
  const __m256 half = _mm512_castps512_ps256(abcd) +
                      _mm512_maskz_extractf32x8_ps(0xFF, abcd, 1);
  return _mm256_castps256_ps128(half) + _mm256_extractf128_ps(half, 1);
}

#elif defined(__AVX2__)

constexpr int kLanes = 8;
constexpr int kTileVecs = 2;
using Vec = __m256;
using IntVec = int32_t __attribute__((vector_size(32)));

WEIR_INLINE __m256i PartMask(int n) {
  const IntVec lane = {0, 1, 2, 3, 4, 5, 6, 7};
  return __builtin_bit_cast(__m256i, lane < n);
}
WEIR_INLINE Vec Load(const float* p) { return _mm256_loadu_ps(p); }
WEIR_INLINE void Store(float* p, Vec x) { _mm256_storeu_ps(p, x); }
WEIR_INLINE Vec LoadPart(const float* p, int n) {
  return _mm256_maskload_ps(p, PartMask(n));
}
WEIR_INLINE void StorePart(float* p, Vec x, int n) {
  _mm256_maskstore_ps(p, PartMask(n), x);
}
WEIR_INLINE Vec Broadcast(float x) { return _mm256_set1_ps(x); }
WEIR_INLINE Vec Fma(Vec a, Vec b, Vec c) { return _mm256_fmadd_ps(a, b, c); }

WEIR_INLINE Quad SumLanes(Vec a, Vec b, Vec c, Vec d) {
  const Vec ab = _mm256_unpacklo_ps(a, b) + _mm256_unpackhi_ps(a, b);
  const Vec cd = _mm256_unpacklo_ps(c, d) + _mm256_unpackhi_ps(c, d);
  const Vec abcd = _mm256_shuffle_ps(ab, cd, 0x44) +  //
                   _mm256_shuffle_ps(ab, cd, 0xEE);
  return _mm256_castps256_ps128(abcd) + _mm256_extractf128_ps(abcd, 1);
}

#else

constexpr int kLanes = 4;
constexpr int kTileVecs = 2;
using Vec = Quad;
using IntVec = int32_t __attribute__((vector_size(16)));

WEIR_INLINE Vec Load(const float* p) {
  Vec x;
  __builtin_memcpy(&x, p, sizeof(x));
  return x;
}
WEIR_INLINE void Store(float* p, Vec x) { __builtin_memcpy(p, &x, sizeof(x)); }
WEIR_INLINE Vec LoadPart(const float* p, int n) {
  Vec x = {};
  for (int i = 0; i < n; ++i) x[i] = p[i];
  return x;
}
WEIR_INLINE void StorePart(float* p, Vec x, int n) {
  for (int i = 0; i < n; ++i) p[i] = x[i];
}
WEIR_INLINE Vec Broadcast(float x) { return Vec{x, x, x, x}; }
WEIR_INLINE Vec Fma(Vec a, Vec b, Vec c) { return a * b + c; }

WEIR_INLINE Quad SumLanes(Vec a, Vec b, Vec c, Vec d) {
  const Vec ab = __builtin_shufflevector(a, b, 0, 4, 1, 5) +
                 __builtin_shufflevector(a, b, 2, 6, 3, 7);
  const Vec cd = __builtin_shufflevector(c, d, 0, 4, 1, 5) +
                 __builtin_shufflevector(c, d, 2, 6, 3, 7);
  return __builtin_shufflevector(ab, cd, 0, 1, 4, 5) +
         __builtin_shufflevector(ab, cd, 2, 3, 6, 7);
}

#endif

// While it lives, results too small for a normal float are zero. A state that
// fades would otherwise stop at the smallest denormals, a hundred times slower
// than zero and never reached by the definition.
class FlushDenormals {
 public:
#if defined(__SSE2__)
  FlushDenormals() : saved_(__builtin_ia32_stmxcsr()) {
    constexpr unsigned kFlushToZero = 0x8000;
    constexpr unsigned kDenormalsAreZero = 0x0040;
    __builtin_ia32_ldmxcsr(saved_ | kFlushToZero | kDenormalsAreZero);
  }
  ~FlushDenormals() { __builtin_ia32_ldmxcsr(saved_); }

 private:
  unsigned saved_;
#endif
};

WEIR_INLINE int Min(int a, int b) { return a < b ? a : b; }
WEIR_INLINE int RoundUp(int x, int step) {
  return (x + step - 1) / step * step;
}

// n is kLanes, or fewer at the end of a row; the missing lanes load as zero.
WEIR_INLINE Vec LoadN(const float* p, int n) {
  return n == kLanes ? Load(p) : LoadPart(p, n);
}
WEIR_INLINE void StoreN(float* p, Vec x, int n) {
  if (n == kLanes) {
    Store(p, x);
  } else {
    StorePart(p, x, n);
  }
}

WEIR_INLINE Quad LoadQuad(const float* p) {
  Quad x;
  __builtin_memcpy(&x, p, sizeof(x));
  return x;
}
WEIR_INLINE void StoreQuad(float* p, Quad x) {
  __builtin_memcpy(p, &x, sizeof(x));
}

WEIR_INLINE float SumLanes(Vec x) {
  const Vec zero = {};
  return SumLanes(x, zero, zero, zero)[0];
}

// f(i, n) for each vector of a row of `width` floats: n lanes from i.
template <typename F>
WEIR_INLINE void ForVectors(int width, F f) {
  int i = 0;
  for (; i + kLanes <= width; i += kLanes) f(i, kLanes);
  if (i < width) f(i, width - i);
}

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

// To the nearest whole number, for |x| < 2^22.
WEIR_INLINE Vec Round(Vec x) {
  const Vec magic = Broadcast(0x1.8p23F);
  return (x + magic) - magic;
}

// 2^x for x <= 0, relative error below 2e-7; 0 far down, NaN for NaN.
WEIR_INLINE Vec Exp2(Vec x) {
  const Vec low = Broadcast(-151.0F);
  x = x < low ? low : x;
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
  x = x < low ? low : x;
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

}  // namespace
}  // namespace weir::engine
