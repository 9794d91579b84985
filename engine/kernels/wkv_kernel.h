// SPDX-License-Identifier: Apache-2.0
//
// RWKV-4's recurrence, vectorised over channels; the state of a vector of them
// lies in registers while a row lasts.
//
// What a hundred thousand tokens add up to is no worse than what one adds: all
// decay is taken from the exponent and none from the two sums, and exponent and
// sums keep beside them what their last change rounded away, since a change may
// be smaller than the last bit. Keys that lie a little above the exponent weigh
// more than one and leave it: a sum that were scaled to each of them in turn
// would be rounded as often. The denominator is never below one.
//
// Bound: wkv.h. Threads: plain functions. Included by the target files only.
#pragma once

#include "engine/kernels/vector_math.h"
#include "engine/kernels/wkv.h"

namespace weir::engine {
namespace {

// Beyond any key, so that it forgets all; infinity would leave a NaN.
constexpr float kWkvRateMax = 1e30F;
// How far above the exponent a key takes its place.
constexpr float kWkvAbove = 8.0F;

struct WkvSum {
  Vec high;
  Vec low;
};

struct WkvState {
  WkvSum numerator;
  WkvSum denominator;
  WkvSum exponent;
};

// a + x and what it rounded away, whatever their order.
WEIR_INLINE WkvSum TwoSum(Vec a, Vec x) {
  const Vec total = a + x;
  const Vec taken = total - a;
  return {total, (a - (total - taken)) + (x - taken)};
}

// sum share + x.
WEIR_INLINE WkvSum Added(WkvSum sum, Vec share, Vec x) {
  return TwoSum(sum.high * share, Fma(sum.low, share, x));
}

// The shares of what was and of what comes, one of them 1, by how far the
// first's exponent lies above the second's: the first is 1 from `least` on.
struct WkvShares {
  Vec past;
  Vec now;
};

WEIR_INLINE WkvShares SharesOf(Vec above, Vec least) {
  const Vec one = Broadcast(1.0F);
  // A NaN is on neither side, and so reaches the past's share.
  const Vec other = Exp(above > least ? -above : above);
  return {above > least ? one : other, above > least ? other : one};
}

WEIR_INLINE Vec WkvRead(const WkvState& s, Vec key, Vec bonus, Vec value) {
  const WkvShares share =
      SharesOf(s.exponent.high - key - bonus + s.exponent.low, Vec{});
  return Fma(share.past, s.numerator.high, share.now * value) /
         Fma(share.past, s.denominator.high, share.now);
}

WEIR_INLINE void WkvWrite(Vec rate, Vec key, Vec value, WkvState& s) {
  const Vec zero = {};
  const WkvSum exponent = TwoSum(s.exponent.high, s.exponent.low - rate);
  const Vec above = exponent.high - key + exponent.low;
  const Vec least = Broadcast(-kWkvAbove);
  const WkvShares share = SharesOf(above, least);
  s.numerator = Added(s.numerator, share.past, share.now * value);
  s.denominator = Added(s.denominator, share.past, share.now);
  s.exponent.high = above > least ? exponent.high : key;
  s.exponent.low = above > least ? exponent.low : zero;
}

// `n` channels of a row from channel `c`.
void WkvChannels(const WkvArgs& args, int64_t row, int c, int n) {
  const int64_t slot = args.slots[row];
  const int64_t channels = args.channels;
  float* sums = args.sums + slot * args.sums_stride + c;
  float* exponent = args.exponent + slot * args.exponent_stride + c;
  WkvState s;
  s.numerator = {LoadN(sums, n), LoadN(sums + channels, n)};
  s.denominator = {LoadN(sums + 2 * channels, n),
                   LoadN(sums + 3 * channels, n)};
  s.exponent = {LoadN(exponent, n), LoadN(sums + 4 * channels, n)};
  const Vec fastest = Broadcast(kWkvRateMax);
  Vec rate = LoadN(args.rate + c, n);
  rate = rate > fastest ? fastest : rate;
  const Vec bonus = LoadN(args.bonus + c, n);
  for (int64_t t = args.row_starts[row]; t < args.row_starts[row + 1]; ++t) {
    const Vec key = LoadN(args.k.data + t * args.k.stride + c, n);
    const Vec value = LoadN(args.v.data + t * args.v.stride + c, n);
    StoreN(
        args.out + t * args.out_stride + c, WkvRead(s, key, bonus, value), n);
    WkvWrite(rate, key, value, s);
  }
  StoreN(sums, s.numerator.high, n);
  StoreN(sums + channels, s.numerator.low, n);
  StoreN(sums + 2 * channels, s.denominator.high, n);
  StoreN(sums + 3 * channels, s.denominator.low, n);
  StoreN(sums + 4 * channels, s.exponent.low, n);
  StoreN(exponent, s.exponent.high, n);
}

void WkvItems(const WkvArgs& args, int64_t begin, int64_t end) {
  const FlushDenormals flush;
  const int64_t blocks = WkvBlocks(args.channels);
  for (int64_t item = begin; item < end; ++item) {
    const int64_t row = item / blocks;
    if (args.slots[row] < 0) continue;
    const int first = static_cast<int>(item % blocks) * kWkvBlock;
    ForVectors(Min(kWkvBlock, args.channels - first),
               [&](int c, int n) { WkvChannels(args, row, first + c, n); });
  }
}

}  // namespace
}  // namespace weir::engine
