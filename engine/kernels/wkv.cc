// SPDX-License-Identifier: Apache-2.0
#include "engine/kernels/wkv.h"

#include <algorithm>
#include <cmath>

#include "engine/kernels/kernel_target.h"

namespace weir::engine {
namespace {

// x as two floats.
void Split(double x, float* high, float* low) {
  *high = static_cast<float>(x);
  *low = static_cast<float>(x - *high);
}

void RunChannel(const WkvArgs& args, int32_t row, int32_t channel) {
  const int64_t slot = args.slots[row];
  float* sums[kWkvSums];
  for (int64_t i = 0; i < kWkvSums; ++i) {
    sums[i] = args.sums + slot * args.sums_stride + i * args.channels + channel;
  }
  float* stored = args.exponent + slot * args.exponent_stride + channel;
  double numerator = double{*sums[0]} + *sums[1];
  double denominator = double{*sums[2]} + *sums[3];
  double exponent = double{*stored} + *sums[4];
  const double rate = args.rate[channel];
  for (int64_t t = args.row_starts[row]; t < args.row_starts[row + 1]; ++t) {
    const double key = args.k.data[t * args.k.stride + channel];
    const double value = args.v.data[t * args.v.stride + channel];
    const double own = key + args.bonus[channel];
    const double high = std::max(exponent, own);
    const double past = std::exp(exponent - high);
    const double now = std::exp(own - high);
    args.out[t * args.out_stride + channel] = static_cast<float>(
        (past * numerator + now * value) / (past * denominator + now));
    const double next = std::max(exponent - rate, key);
    const double kept = std::exp(exponent - rate - next);
    const double added = std::exp(key - next);
    numerator = kept * numerator + added * value;
    denominator = kept * denominator + added;
    exponent = next;
  }
  Split(numerator, sums[0], sums[1]);
  Split(denominator, sums[2], sums[3]);
  Split(exponent, stored, sums[4]);
}

}  // namespace

void WkvReference(const WkvArgs& args) {
  for (int32_t row = 0; row < args.rows; ++row) {
    if (args.slots[row] < 0) continue;
    for (int32_t channel = 0; channel < args.channels; ++channel) {
      RunChannel(args, row, channel);
    }
  }
}

void Wkv(const WkvArgs& args, int64_t begin, int64_t end) {
  Kernels().wkv(args, begin, end);
}

}  // namespace weir::engine
