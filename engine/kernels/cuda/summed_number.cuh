// SPDX-License-Identifier: Apache-2.0
//
// A number that is held as two floats, and how it decays: sums over a whole
// stream, to which a token adds less than their last bit.
//
// Threads: plain functions.
#pragma once

namespace weir::engine {

// high is the sum as fp32 has it, low what that rounded away.
struct SummedNumber {
  float high;
  float low;
};

// a + x and what it rounded away, whatever their order.
__device__ inline SummedNumber TwoSum(float a, float x) {
  const float total = a + x;
  const float taken = total - a;
  return {total, (a - (total - taken)) + (x - taken)};
}

// d x as carry x + scale x: next to one it is what d takes away that is held,
// to its last bit (decay_math.h).
struct SummedDecay {
  float carry;  // 1 or 0
  float scale;  // d - 1, or d
};

// A NaN stays one, as a scale.
__device__ inline SummedDecay SummedDecayOf(float log2_decay) {
  if (!(log2_decay >= -0.5F)) return {0.0F, exp2f(log2_decay)};
  const float x = log2_decay;
  float p = 1.52527338e-5F;
  p = fmaf(p, x, 1.54035304e-4F);
  p = fmaf(p, x, 1.33335581e-3F);
  p = fmaf(p, x, 9.61812911e-3F);
  p = fmaf(p, x, 5.55041087e-2F);
  p = fmaf(p, x, 2.40226507e-1F);
  p = fmaf(p, x, 6.93147181e-1F);
  return {1.0F, p * x};
}

// d x + a b.
__device__ inline SummedNumber Summed(SummedDecay d,
                                      SummedNumber x,
                                      float a,
                                      float b) {
  const float change = fmaf(d.carry + d.scale, x.low, d.scale * x.high);
  return TwoSum(d.carry * x.high, fmaf(a, b, change));
}

// x + a.
__device__ inline SummedNumber Summed(SummedNumber x, float a) {
  return TwoSum(x.high, x.low + a);
}

}  // namespace weir::engine
