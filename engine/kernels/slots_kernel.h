// SPDX-License-Identifier: Apache-2.0
//
// The gates and weights of slots.h, vectorised over the slots of a head.
//
// Bound: bytes. Threads: plain functions. Included by the target files only.
#pragma once

#include "engine/kernels/decay_math.h"
#include "engine/kernels/pointwise_kernel.h"
#include "engine/kernels/slots.h"
#include "engine/kernels/vector_math.h"

namespace weir::engine {
namespace {

void SlotGateRows(const SlotGateArgs& args, int64_t begin, int64_t end) {
  const Vec scale = Broadcast(-args.scale * kLog2E);
  const Vec one = Broadcast(1.0F);
  for (int64_t t = begin; t < end; ++t) {
    const float* f = args.f.data + t * args.f.stride;
    const int64_t to = t * args.width;
    ForVectors(args.width, [&](int i, int n) {
      const Vec log2_decay = scale * Softplus(-LoadN(f + i, n));
      const DecayVec decay = DecayVecOf(log2_decay);
      StoreN(args.log2_decay + to + i, log2_decay, n);
      // Next to one the scale is what is taken away, to its last bit.
      StoreN(args.write + to + i, (one - decay.carry) - decay.scale, n);
    });
  }
}

// Of `width` floats, at least one.
WEIR_INLINE float MaxOf(const float* x, int width) {
  if (width < kLanes) {
    float max = x[0];
    for (int i = 1; i < width; ++i) max = x[i] > max ? x[i] : max;
    return max;
  }
  Vec max = Load(x);
  for (int i = kLanes; i < width; i += kLanes) {
    // The last vector overlaps the one before it.
    const Vec y = Load(x + (i + kLanes <= width ? i : width - kLanes));
    max = y > max ? y : max;
  }
  float lanes[kLanes];
  Store(lanes, max);
  float high = lanes[0];
  for (int i = 1; i < kLanes; ++i) high = lanes[i] > high ? lanes[i] : high;
  return high;
}

void SlotSoftmaxRows(const SlotSoftmaxArgs& args, int64_t begin, int64_t end) {
  for (int64_t head = begin * args.heads; head < end * args.heads; ++head) {
    float* x = args.x + head * args.slots;
    const Vec high = Broadcast(MaxOf(x, args.slots));
    Vec sum = {};
    ForVectors(args.slots, [&](int i, int n) {
      StoreN(x + i, Exp(LoadN(x + i, n) - high), n);
      sum += LoadN(x + i, n);
    });
    const Vec share = Broadcast(1.0F / SumLanes(sum));
    ForVectors(args.slots, [&](int i, int n) {
      StoreN(x + i, share * LoadN(x + i, n), n);
    });
  }
}

}  // namespace
}  // namespace weir::engine
