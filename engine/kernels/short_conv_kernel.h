// SPDX-License-Identifier: Apache-2.0
//
// The short convolution, vectorised over channels: for each token the W input
// rows that it meets, from the state or from x, then one pass over them.
//
// Bound: bytes; W reads of rows that lie in the first-level cache, one write.
// Threads: plain functions. Included by the target files only.
#pragma once

#include "engine/kernels/channel_blocks_kernel.h"
#include "engine/kernels/short_conv.h"
#include "engine/kernels/vector.h"
#include "engine/kernels/vector_math.h"

namespace weir::engine {
namespace {

constexpr int kWidthMax = 8;

// Channels of a row, by the first and their number.
struct ConvChannels {
  int first;
  int count;
};

// inputs[i] meets weight[i]. kWidth 0: any width.
template <int kWidth, bool kSilu>
WEIR_INLINE void ConvolveToken(const ShortConvArgs& args,
                               ConvChannels channels,
                               const float* const* inputs,
                               float* out) {
  const int width = kWidth > 0 ? kWidth : args.width;
  ForVectors(
      channels.count, [&](int i, int n) __attribute__((always_inline)) {
        const int c = channels.first + i;
        Vec sum = {};
        if (args.bias != nullptr) sum = LoadN(args.bias + c, n);
        for (int tap = 0; tap < width; ++tap) {
          const float* weight = args.weight + int64_t{tap} * args.channels + c;
          sum = Fma(LoadN(weight, n), LoadN(inputs[tap] + c, n), sum);
        }
        StoreN(out + c, kSilu ? Silu(sum) : sum, n);
      });
}

// How many of the first of `part` go without the SiLU.
WEIR_INLINE int PlainOf(const ShortConvArgs& args, ConvChannels part) {
  const int count = args.plain - part.first;
  return count < 0 ? 0 : count < part.count ? count : part.count;
}

template <int kWidth>
void ConvolveRow(const ShortConvArgs& args, int32_t row, ConvChannels part) {
  const int64_t first = args.row_starts[row];
  const int64_t tokens = args.row_starts[row + 1] - first;
  const int64_t history = args.width - 1;
  const int64_t channels = args.channels;
  float* state = args.state + args.slots[row] * args.state_stride;
  const float* x = args.x.data + first * args.x.stride;
  const ConvChannels plain = {part.first, PlainOf(args, part)};
  const ConvChannels silu = {part.first + plain.count,
                             part.count - plain.count};
  for (int64_t t = 0; t < tokens; ++t) {
    const float* inputs[kWidthMax];
    for (int64_t i = 0; i <= history; ++i) {
      const int64_t token = t - history + i;
      inputs[i] = token < 0 ? state + (history + token) * channels
                            : x + token * args.x.stride;
    }
    float* out = args.out + (first + t) * args.out_stride;
    ConvolveToken<kWidth, false>(args, plain, inputs, out);
    ConvolveToken<kWidth, true>(args, silu, inputs, out);
  }
  // Upwards, so that a row of the state is read before it is written over.
  for (int64_t i = 0; i < history; ++i) {
    const int64_t token = tokens - history + i;
    const float* from = token < 0 ? state + (history + token) * channels
                                  : x + token * args.x.stride;
    if (from == state + i * channels) continue;
    ForVectors(part.count, [&](int j, int n) {
      const int c = part.first + j;
      StoreN(state + i * channels + c, LoadN(from + c, n), n);
    });
  }
}

void Convolve(const ShortConvArgs& args, int64_t begin, int64_t end) {
  ForRowChannels(
      args.channels, begin, end, [&](int32_t row, int first, int count) {
        if (args.slots[row] < 0) return;
        if (args.width == 4) {
          ConvolveRow<4>(args, row, {first, count});
        } else {
          ConvolveRow<0>(args, row, {first, count});
        }
      });
}

}  // namespace
}  // namespace weir::engine
