// SPDX-License-Identifier: Apache-2.0
//
// Mamba-1's scan, vectorised over channels: a vector of channels goes through
// all tokens of its row before the next one does, its states in registers
// where they fit.
//
// Bound: arithmetic, an exponential for each state of a channel. Threads: plain
// functions. Included by the target files only.
#pragma once

#include "engine/kernels/decay_math.h"
#include "engine/kernels/selective_scan.h"
#include "engine/kernels/vector.h"
#include "engine/kernels/vector_math.h"

namespace weir::engine {
namespace {

// One token's part in one vector of channels.
struct ScanInput {
  Vec dt;
  Vec write;  // dt x
  Vec skip;   // d x
  const float* b;
  const float* c;
};

WEIR_INLINE ScanInput ScanInputOf(const SelectiveScanArgs& args,
                                  int64_t t,
                                  int channel,
                                  int n) {
  const Vec x = LoadN(args.x.data + t * args.x.stride + channel, n);
  const Vec raw = LoadN(args.dt.data + t * args.dt.stride + channel, n);
  ScanInput input;
  input.dt = Softplus(raw + LoadN(args.dt_bias + channel, n));
  input.write = input.dt * x;
  input.skip = LoadN(args.d + channel, n) * x;
  input.b = args.b.data + t * args.b.stride;
  input.c = args.c.data + t * args.c.stride;
  return input;
}

// State s of `index` after the token; rounded as decay_math.h says.
WEIR_INLINE Vec ScanState(const ScanInput& input, Vec rate, Vec s, int index) {
  const Vec log2_decay = input.dt * rate;
  const Vec scale = DecayVecOf(log2_decay).scale;
  const Vec change = Fma(input.write, Broadcast(input.b[index]), scale * s);
  return IsNearOne(log2_decay) ? change + s : change;
}

WEIR_INLINE void WriteScan(
    const SelectiveScanArgs& args, int64_t t, int channel, Vec y, int n) {
  if (args.z.data != nullptr) {
    y = y * Silu(LoadN(args.z.data + t * args.z.stride + channel, n));
  }
  StoreN(args.out + t * args.out_stride + channel, y, n);
}

// kStates 0: any number, each met in memory.
template <int kStates>
WEIR_INLINE void ScanVector(const SelectiveScanArgs& args,
                            int64_t row,
                            int channel,
                            int n) {
  const int64_t pitch = args.channels;
  float* state = args.state + args.slots[row] * args.state_stride + channel;
  const float* rate = args.rate + channel;
  Vec held[kStates > 0 ? kStates : 1];
  for (int i = 0; i < kStates; ++i) held[i] = LoadN(state + i * pitch, n);
  for (int64_t t = args.row_starts[row]; t < args.row_starts[row + 1]; ++t) {
    const ScanInput input = ScanInputOf(args, t, channel, n);
    Vec y = input.skip;
#pragma GCC unroll 16
    for (int i = 0; i < kStates; ++i) {
      held[i] = ScanState(input, LoadN(rate + i * pitch, n), held[i], i);
      y = Fma(held[i], Broadcast(input.c[i]), y);
    }
    for (int i = 0; kStates == 0 && i < args.states; ++i) {
      float* s = state + i * pitch;
      const Vec next =
          ScanState(input, LoadN(rate + i * pitch, n), LoadN(s, n), i);
      StoreN(s, next, n);
      y = Fma(next, Broadcast(input.c[i]), y);
    }
    WriteScan(args, t, channel, y, n);
  }
  for (int i = 0; i < kStates; ++i) StoreN(state + i * pitch, held[i], n);
}

template <int kStates>
void ScanItem(const SelectiveScanArgs& args, int64_t row, int first) {
  const int width = Min(kScanBlock, args.channels - first);
  ForVectors(
      width, [&](int i, int n) __attribute__((always_inline)) {
        ScanVector<kStates>(args, row, first + i, n);
      });
}

void Scan(const SelectiveScanArgs& args, int64_t begin, int64_t end) {
  const FlushDenormals flush;
  const int64_t blocks = (int64_t{args.channels} + kScanBlock - 1) / kScanBlock;
  for (int64_t item = begin; item < end; ++item) {
    const int64_t row = item / blocks;
    const int first = static_cast<int>(item % blocks) * kScanBlock;
    if (args.slots[row] < 0) continue;
    if (args.states == 16) {
      ScanItem<16>(args, row, first);
    } else if (args.states == 8) {
      ScanItem<8>(args, row, first);
    } else {
      ScanItem<0>(args, row, first);
    }
  }
}

}  // namespace
}  // namespace weir::engine
