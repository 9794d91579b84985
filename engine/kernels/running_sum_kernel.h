// SPDX-License-Identifier: Apache-2.0
//
// The sums of running_sum.h, vectorised over the channels of a head.
//
// Bound: bytes of x and q. Threads: plain functions. Included by the target
// files only.
#pragma once

#include "engine/kernels/decay_math.h"
#include "engine/kernels/running_sum.h"
#include "engine/kernels/wkv_kernel.h"

namespace weir::engine {
namespace {

// One token of one head. Returns the dot of sum + eps with q, or 0 without one.
WEIR_INLINE float SumToken(const Decay& decay,
                           const float* x,
                           const float* q,
                           float eps,
                           int dim,
                           float* state) {
  const Vec keep = Broadcast(decay.carry + decay.scale);
  const Vec carry = Broadcast(decay.carry);
  const Vec scale = Broadcast(decay.scale);
  Vec dot = {};
  ForVectors(
      dim, [&](int i, int n) __attribute__((always_inline)) {
        const Vec high = LoadN(state + i, n);
        const Vec change = Fma(scale, high, LoadN(x + i, n));
        const WkvSum z =
            TwoSum(carry * high, Fma(keep, LoadN(state + dim + i, n), change));
        StoreN(state + i, z.high, n);
        StoreN(state + dim + i, z.low, n);
        if (q != nullptr) {
          dot = Fma(z.high + Broadcast(eps), LoadN(q + i, n), dot);
        }
      });
  return q == nullptr ? 0 : SumLanes(dot);
}

void RunningSumItems(const RunningSumArgs& args, int64_t begin, int64_t end) {
  const FlushDenormals flush;
  for (int64_t item = begin; item < end; ++item) {
    const int64_t row = item / args.heads;
    const int64_t head = item % args.heads;
    if (args.slots[row] < 0) continue;
    const int64_t at = head * args.dim;
    float* state = args.state + args.slots[row] * args.state_stride + 2 * at;
    for (int64_t t = args.row_starts[row]; t < args.row_starts[row + 1]; ++t) {
      Decay decay = {1.0F, 0.0F};
      if (args.log2_decay.data != nullptr) {
        decay =
            DecayOf(args.log2_decay.data[t * args.log2_decay.stride + head]);
      }
      const float* q = args.q.data == nullptr
                           ? nullptr
                           : args.q.data + t * args.q.stride + at;
      const float* x = args.x.data + t * args.x.stride + at;
      float* out = args.out + t * args.out_stride;
      const float dot = SumToken(decay, x, q, args.eps, args.dim, state);
      if (q != nullptr) {
        out[head] = dot;
        continue;
      }
      ForVectors(args.dim, [&](int i, int n) {
        StoreN(out + at + i, LoadN(state + i, n), n);
      });
    }
  }
}

}  // namespace
}  // namespace weir::engine
