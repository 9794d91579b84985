// SPDX-License-Identifier: Apache-2.0
//
// What a decay takes away, in fp64.
//
// Threads: plain functions. Included by the target files only.
#pragma once

#include <stdint.h>

#include "engine/kernels/vector_target.h"

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

}  // namespace
}  // namespace weir::engine
