// SPDX-License-Identifier: Apache-2.0
//
// The recurrent form of a state that is held as two floats, one decay for the
// head. As recurrent_kernel.h, a few rows of S (one a value channel, K
// contiguous) are taken through a segment of tokens while they lie in the first
// cache:
//
//   S + r <- d (S + r) + k v^T      o = S^T q
//
// with S what fp32 holds of the sum and r what it rounded away.
//
// Bound: beyond the caches 16 K V bytes a token, head and row.
// Threads: plain functions. Included by the target files only.
#pragma once

#include "engine/kernels/decay_math.h"
#include "engine/kernels/recurrence.h"
#include "engine/kernels/recurrent_kernel.h"
#include "engine/kernels/wkv_kernel.h"

namespace weir::engine {
namespace {

// Token t through the kRows rows of S and r; `row` is the first one's channel.
// kPrefetch asks for later rows while these are written.
template <int kRows, bool kPrefetch>
WEIR_INLINE void SummedStepRows(
    const Segment& a, int t, int row, float* s, float* rest) {
  const int dim = a.key_dim;
  const float* k = a.k + t * a.k_stride;
  const float* q = a.q + t * a.q_stride;
  const float* v = a.v + t * a.v_stride + row;
  const Vec carry = Broadcast(a.update[t].carry);
  const Vec scale = Broadcast(a.update[t].scale);
  const Vec decay = Broadcast(a.decay[t]);
  Vec dot[4] = {};
  ForVectors(
      dim, [&](int i, int n) __attribute__((always_inline)) {
        const Vec key = LoadN(k + i, n);
        const Vec query = LoadN(q + i, n);
#pragma GCC unroll 4
        for (int r = 0; r < kRows; ++r) {
          const int at = r * dim + i;
          const Vec x = LoadN(s + at, n);
          Vec change = Fma(decay, LoadN(rest + at, n), scale * x);
          change = Fma(key, Broadcast(v[r]), change);
          const WkvSum sum = TwoSum(carry * x, change);
          StoreN(s + at, sum.high, n);
          StoreN(rest + at, sum.low, n);
          if (kPrefetch) {
            __builtin_prefetch(s + at + kPrefetchFloats, 1);
            __builtin_prefetch(rest + at + kPrefetchFloats, 1);
          }
          dot[r] = Fma(sum.high, query, dot[r]);
        }
      });
  const Quad o = SumLanes(dot[0], dot[1], dot[2], dot[3]);
  float* out = a.out + t * a.out_stride + row;
  for (int r = 0; r < kRows; ++r) out[r] = o[r];
}

void SummedStepSegment(const Segment& a,
                       int value_dim,
                       float* state,
                       float* rest) {
  const int64_t dim = a.key_dim;
  int row = 0;
  for (; row + 4 <= value_dim; row += 4) {
    float* s = state + row * dim;
    float* r = rest + row * dim;
    SummedStepRows<4, true>(a, 0, row, s, r);
    for (int t = 1; t < a.tokens; ++t) {
      SummedStepRows<4, false>(a, t, row, s, r);
    }
  }
  for (; row < value_dim; ++row) {
    for (int t = 0; t < a.tokens; ++t) {
      SummedStepRows<1, false>(a, t, row, state + row * dim, rest + row * dim);
    }
  }
}

void SummedStepHead(const RecurrenceArgs& args, int64_t row, int64_t head) {
  const int64_t last = args.row_starts[row + 1];
  const int64_t dim = args.key_dim;
  const int64_t key_at = head / (args.heads / args.key_heads) * dim;
  const int64_t value_at = head * args.value_dim;
  const int64_t slot = args.slots[row];
  Segment a;
  a.key_dim = args.key_dim;
  a.q_stride = args.q.stride;
  a.k_stride = args.k.stride;
  a.v_stride = args.v.stride;
  a.out_stride = args.out_stride;
  for (int64_t t = args.row_starts[row]; t < last; t += kSegmentTokens) {
    a.tokens =
        static_cast<int>(last - t < kSegmentTokens ? last - t : kSegmentTokens);
    a.q = args.q.data + t * args.q.stride + key_at;
    a.k = args.k.data + t * args.k.stride + key_at;
    a.v = args.v.data + t * args.v.stride + value_at;
    a.out = args.out + t * args.out_stride + value_at;
    for (int i = 0; i < a.tokens; ++i) {
      a.update[i] = DecayOf(
          args.log2_decay.data[(t + i) * args.log2_decay.stride + head]);
      a.decay[i] = a.update[i].carry + a.update[i].scale;
    }
    SummedStepSegment(a,
                      args.value_dim,
                      args.state + slot * args.state_stride + value_at * dim,
                      args.rest + slot * args.rest_stride + value_at * dim);
  }
}

void SummedRecurrent(const RecurrenceArgs& args, int64_t begin, int64_t end) {
  const FlushDenormals flush;
  for (int64_t item = begin; item < end; ++item) {
    const int64_t row = item / args.heads;
    if (args.slots[row] < 0) continue;
    SummedStepHead(args, row, item % args.heads);
  }
}

}  // namespace
}  // namespace weir::engine
