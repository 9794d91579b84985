// SPDX-License-Identifier: Apache-2.0
//
// The recurrent form, one decay for the head. The rows of S (one a value
// channel, K contiguous) do not meet, so a block of rows is taken through a
// segment of tokens while it lies in the first cache. For each token both dots
// of a row come from one read of the state before decay:
//
//   w = S^T k   y = S^T q   u = beta (v - d w)   o = d y + u (k.q)
//   S <- d S + k u^T    rounded as decay_math.h says
//
// Bound: beyond the caches 8 K V bytes a token, head and row; else 4 K V FMAs.
// Threads: plain functions, for the target files.
#pragma once

#include "engine/kernels/decay_math.h"
#include "engine/kernels/recurrence.h"
#include "engine/kernels/vector.h"

namespace weir::engine {
namespace {

constexpr int kSegmentTokens = 32;
constexpr int kBlockRows = 16;
// States that few tokens meet are asked for so far ahead: their memory is slow.
constexpr int kPrefetchFloats = 1024;
constexpr int kPrefetchTokensMax = 4;

// One head of one row over one segment of tokens.
struct Segment {
  int tokens;
  int key_dim;
  const float* q;
  const float* k;
  const float* v;
  float* out;
  int64_t q_stride;
  int64_t k_stride;
  int64_t v_stride;
  int64_t out_stride;
  float decay[kSegmentTokens];  // d
  Decay update[kSegmentTokens];
  float beta[kSegmentTokens];
  float key_query[kSegmentTokens];  // k.q
};

template <int kVecs>
WEIR_INLINE float Dot(const float* a, const float* b, int dim) {
  Vec sum = {};
  ForVectors(kVecs > 0 ? kVecs * kLanes : dim, [&](int i, int n) {
    sum = Fma(LoadN(a + i, n), LoadN(b + i, n), sum);
  });
  return SumLanes(sum);
}

// Token t through the kRows rows of S from `s`; `row` is the first one's
// channel. kVecs vectors make a row; 0: as many as key_dim needs. kPrefetch
// asks for later rows while these are written.
template <int kVecs, bool kDelta, int kRows, bool kPrefetch>
WEIR_INLINE void StepRows(const Segment& a, int t, int row, float* s) {
  const int dim = kVecs > 0 ? kVecs * kLanes : a.key_dim;
  const float* k = a.k + t * a.k_stride;
  const float* q = a.q + t * a.q_stride;
  Vec key_dot[4] = {};
  Vec query_dot[4] = {};
  ForVectors(
      dim, [&](int i, int n) __attribute__((always_inline)) {
        const Vec key = LoadN(k + i, n);
        const Vec query = LoadN(q + i, n);
#pragma GCC unroll 4
        for (int r = 0; r < kRows; ++r) {
          const Vec x = LoadN(s + r * dim + i, n);
          query_dot[r] = Fma(x, query, query_dot[r]);
          if (kDelta) key_dot[r] = Fma(x, key, key_dot[r]);
        }
      });

  const float* v = a.v + t * a.v_stride + row;
  Quad u = kRows == 4 ? LoadQuad(v) : Quad{v[0]};
  if (kDelta) {
    const Quad w = SumLanes(key_dot[0], key_dot[1], key_dot[2], key_dot[3]);
    u = a.beta[t] * (u - a.decay[t] * w);
  }
  const Quad y =
      SumLanes(query_dot[0], query_dot[1], query_dot[2], query_dot[3]);
  const Quad o = a.decay[t] * y + u * a.key_query[t];
  float* out = a.out + t * a.out_stride + row;
  if (kRows == 4) {
    StoreQuad(out, o);
  } else {
    out[0] = o[0];
  }

  const Vec carry = Broadcast(a.update[t].carry);
  const Vec scale = Broadcast(a.update[t].scale);
  ForVectors(
      dim, [&](int i, int n) __attribute__((always_inline)) {
        const Vec key = LoadN(k + i, n);
#pragma GCC unroll 4
        for (int r = 0; r < kRows; ++r) {
          float* p = s + r * dim + i;
          const Vec x = LoadN(p, n);
          const Vec change = Fma(key, Broadcast(u[r]), scale * x);
          StoreN(p, Fma(carry, x, change), n);
          if (kPrefetch) __builtin_prefetch(p + kPrefetchFloats, 1);
        }
      });
}

template <int kVecs, bool kDelta, bool kPrefetch>
void StepSegment(const Segment& a, int value_dim, float* state) {
  const int64_t dim = a.key_dim;
  for (int block = 0; block < value_dim; block += kBlockRows) {
    const int end = Min(block + kBlockRows, value_dim);
    for (int t = 0; t < a.tokens; ++t) {
      int row = block;
      for (; row + 4 <= end; row += 4) {
        StepRows<kVecs, kDelta, 4, kPrefetch>(a, t, row, state + row * dim);
      }
      for (; row < end; ++row) {
        StepRows<kVecs, kDelta, 1, false>(a, t, row, state + row * dim);
      }
    }
  }
}

// One head of one row, from its first token to its last.
template <int kVecs, bool kDelta>
void StepHead(const RecurrenceArgs& args, int32_t row, int32_t head) {
  const int64_t first = args.row_starts[row];
  const int64_t last = args.row_starts[row + 1];
  const int64_t key_head = head / (args.heads / args.key_heads);
  const int64_t dim = args.key_dim;
  float* state = args.state + args.slots[row] * args.state_stride +
                 head * dim * args.value_dim;
  Segment a;
  a.key_dim = args.key_dim;
  a.q_stride = args.q.stride;
  a.k_stride = args.k.stride;
  a.v_stride = args.v.stride;
  a.out_stride = args.out_stride;
  for (int64_t t = first; t < last; t += kSegmentTokens) {
    a.tokens =
        static_cast<int>(last - t < kSegmentTokens ? last - t : kSegmentTokens);
    a.q = args.q.data + t * args.q.stride + key_head * dim;
    a.k = args.k.data + t * args.k.stride + key_head * dim;
    a.v = args.v.data + t * args.v.stride + int64_t{head} * args.value_dim;
    a.out = args.out + t * args.out_stride + int64_t{head} * args.value_dim;
    for (int i = 0; i < a.tokens; ++i) {
      const double log2_decay =
          args.log2_decay.data[(t + i) * args.log2_decay.stride + head];
      a.update[i] = DecayOf(log2_decay);
      a.decay[i] = a.update[i].carry + a.update[i].scale;
      if (kDelta) a.beta[i] = args.beta.data[(t + i) * args.beta.stride + head];
      a.key_query[i] =
          Dot<kVecs>(a.k + i * a.k_stride, a.q + i * a.q_stride, a.key_dim);
    }
    const auto step = last - first <= kPrefetchTokensMax
                          ? StepSegment<kVecs, kDelta, true>
                          : StepSegment<kVecs, kDelta, false>;
    step(a, args.value_dim, state);
  }
}

template <int kVecs, bool kDelta>
void StepItems(const RecurrenceArgs& args, int64_t begin, int64_t end) {
  for (int64_t item = begin; item < end; ++item) {
    const auto row = static_cast<int32_t>(item / args.heads);
    const auto head = static_cast<int32_t>(item % args.heads);
    if (args.slots[row] < 0) continue;
    StepHead<kVecs, kDelta>(args, row, head);
  }
}

template <bool kDelta>
void StepAnyKey(const RecurrenceArgs& args, int64_t begin, int64_t end) {
  switch (args.key_dim) {
    case 64:
      return StepItems<64 / kLanes, kDelta>(args, begin, end);
    case 128:
      return StepItems<128 / kLanes, kDelta>(args, begin, end);
    case 256:
      return StepItems<256 / kLanes, kDelta>(args, begin, end);
    default:
      return StepItems<0, kDelta>(args, begin, end);
  }
}

void HeadDecayRecurrent(const RecurrenceArgs& args,
                        int64_t begin,
                        int64_t end) {
  const FlushDenormals flush;
  if (args.beta.data != nullptr) {
    StepAnyKey<true>(args, begin, end);
  } else {
    StepAnyKey<false>(args, begin, end);
  }
}

}  // namespace
}  // namespace weir::engine
