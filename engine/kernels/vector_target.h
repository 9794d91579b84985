// SPDX-License-Identifier: Apache-2.0
//
// A vector of floats as wide as the target's registers, and what differs
// between the targets. The flags of the including target file decide which it
// is. Why all is in an unnamed namespace: kernel_table.h.
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
  const __m256 half = _mm512_maskz_extractf32x8_ps(0xFF, abcd, 0) +
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

}  // namespace
}  // namespace weir::engine
