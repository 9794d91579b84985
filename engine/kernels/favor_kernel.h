// SPDX-License-Identifier: Apache-2.0
//
// The features of favor.h, vectorised over the features of a head.
//
// Bound: one exponential a feature, and bytes. Threads: plain functions.
// Included by the target files only.
#pragma once

#include "engine/kernels/favor.h"
#include "engine/kernels/pointwise_kernel.h"
#include "engine/kernels/slots_kernel.h"
#include "engine/kernels/vector_math.h"

namespace weir::engine {
namespace {

void FavorQueryRows(const FavorQueryArgs& args, int64_t begin, int64_t end) {
  const Vec eps = Broadcast(args.eps);
  for (int64_t head = begin * args.heads; head < end * args.heads; ++head) {
    float* u = args.u + head * args.features;
    const Vec high = Broadcast(MaxOf(u, args.features));
    const Vec half = Broadcast(args.half[head]);
    Vec sum = {};
    ForVectors(args.features, [&](int i, int n) {
      StoreN(u + i, Exp((LoadN(u + i, n) - high) - half) + eps, n);
      sum += LoadN(u + i, n);
    });
    args.sums[head] = SumLanes(sum);
  }
}

void FavorKeyItems(const FavorKeyArgs& args, int64_t begin, int64_t end) {
  for (int64_t item = begin; item < end; ++item) {
    const int64_t row = item / args.heads;
    const int64_t head = item % args.heads;
    if (args.slots[row] < 0) continue;
    float* state = args.state + args.slots[row] * args.state_stride + head;
    float high = *state;
    for (int64_t t = args.row_starts[row]; t < args.row_starts[row + 1]; ++t) {
      const int64_t at = t * args.heads + head;
      float* u = args.u + at * args.features;
      const float own = MaxOf(u, args.features);
      // A NaN is not above, and reaches the state through e.
      const float next = own > high ? own : high;
      args.log2_decay[at] = (high - next) * kLog2E;
      const Vec below = Broadcast(next);
      const Vec half = Broadcast(args.half[at]);
      ForVectors(args.features, [&](int i, int n) {
        StoreN(u + i, Exp((LoadN(u + i, n) - below) - half), n);
      });
      high = next;
    }
    *state = high;
  }
}

void FavorReadRows(const FavorReadArgs& args, int64_t begin, int64_t end) {
  const int dim = args.value_dim;
  for (int64_t t = begin; t < end; ++t) {
    for (int64_t at = t * args.heads; at < (t + 1) * args.heads; ++at) {
      float* x = args.x + at * dim;
      const float* values = args.values + at * dim;
      const float weight = args.eps * args.sums[at];
      const float divisor = args.dots[at] + weight * args.count[t];
      const Vec factor = Broadcast(1.0F / divisor);
      ForVectors(dim, [&](int i, int n) {
        const Vec sum =
            Fma(Broadcast(weight), LoadN(values + i, n), LoadN(x + i, n));
        StoreN(x + i, factor * sum, n);
      });
    }
  }
}

}  // namespace
}  // namespace weir::engine
