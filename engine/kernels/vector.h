// SPDX-License-Identifier: Apache-2.0
//
// What the kernels are written in, above the vectors of a target: parts of
// vectors, rows of them, and how denormals are treated.
//
// Threads: plain functions. Included by the target files only.
#pragma once

#include "engine/kernels/vector_target.h"

namespace weir::engine {
namespace {

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

}  // namespace
}  // namespace weir::engine
