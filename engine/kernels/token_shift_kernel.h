// SPDX-License-Identifier: Apache-2.0
//
// The token shift, vectorised over channels. The token before is read from x
// itself: the state is touched at a row's first token and after its last.
//
// Bound: bytes. Threads: plain functions. Included by the target files only.
#pragma once

#include "engine/kernels/channel_blocks_kernel.h"
#include "engine/kernels/token_shift.h"
#include "engine/kernels/vector.h"

namespace weir::engine {
namespace {

// `count` channels of a row from `channel` on.
void ShiftRow(const TokenShiftArgs& args, int32_t row, int channel, int count) {
  const int64_t first = args.row_starts[row];
  const int64_t end = args.row_starts[row + 1];
  if (first == end) return;
  float* state = args.state + args.slots[row] * args.state_stride + channel;
  const float* before = state;
  for (int64_t t = first; t < end; ++t) {
    const float* x = args.x.data + t * args.x.stride + channel;
    float* delta = args.delta + t * args.channels + channel;
    ForVectors(count, [&](int c, int n) {
      StoreN(delta + c, LoadN(before + c, n) - LoadN(x + c, n), n);
    });
    before = x;
  }
  ForVectors(count,
             [&](int c, int n) { StoreN(state + c, LoadN(before + c, n), n); });
}

void ShiftRows(const TokenShiftArgs& args, int64_t begin, int64_t end) {
  ForRowChannels(
      args.channels, begin, end, [&](int32_t row, int first, int count) {
        if (args.slots[row] >= 0) ShiftRow(args, row, first, count);
      });
}

void LerpRows(const LerpArgs& args, int64_t begin, int64_t end) {
  for (int64_t t = begin; t < end; ++t) {
    const float* x = args.x.data + t * args.x.stride;
    const float* delta = args.delta.data + t * args.delta.stride;
    const float* add = args.add.data == nullptr
                           ? nullptr
                           : args.add.data + t * args.add.stride;
    float* out = args.out + t * args.channels;
    ForVectors(args.channels, [&](int c, int n) {
      Vec mix = LoadN(args.mix + c, n);
      if (add != nullptr) mix = mix + LoadN(add + c, n);
      StoreN(out + c, Fma(LoadN(delta + c, n), mix, LoadN(x + c, n)), n);
    });
  }
}

}  // namespace
}  // namespace weir::engine
