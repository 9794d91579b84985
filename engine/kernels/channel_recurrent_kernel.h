// SPDX-License-Identifier: Apache-2.0
//
// The recurrent form with a decay a channel. As in recurrent_kernel.h, a block
// of S's rows is taken through a segment of tokens, a token in one pass over a
// row; with a correction the dot a^T S goes before it, from the first cache.
//
// Bound: beyond the caches 8 K V bytes a token, head and row; within them 3 K V
// FMAs, 5 with a correction. Threads: plain functions, for the target files.
#pragma once

#include "engine/kernels/channel_token.h"
#include "engine/kernels/decay_math.h"
#include "engine/kernels/recurrence.h"
#include "engine/kernels/recurrent_kernel.h"
#include "engine/kernels/vector.h"

namespace weir::engine {
namespace {

constexpr int kChannelTokens = 8;

struct ChannelSegment {
  int tokens;
  int key_dim;
  ChannelToken token[kChannelTokens];
  // Decay of each channel of K or of V.
  alignas(64) float carry[kChannelTokens][kChannelsMax];
  alignas(64) float scale[kChannelTokens][kChannelsMax];
};

// Token t through kRows rows of S from `s`, the first of channel `row`.
template <int kVecs,
          DecayKind kDecay,
          Correction kCorrect,
          ReadOrder kRead,
          int kRows,
          bool kPrefetch>
WEIR_INLINE void ChannelStepRows(const ChannelSegment& segment,
                                 int t,
                                 int row,
                                 float* s) {
  constexpr bool kByKey = kDecay == DecayKind::kKey;
  constexpr bool kGeneral = kCorrect == Correction::kGeneral;
  const int dim = kVecs > 0 ? kVecs * kLanes : segment.key_dim;
  const ChannelToken& token = segment.token[t];
  const float* carries = segment.carry[t];
  const float* scales = segment.scale[t];
  Quad w = {};
  if (kCorrect != Correction::kNone) {
    Vec dot[4] = {};
    ForVectors(
        dim, [&](int i, int n) __attribute__((always_inline)) {
          const Vec a = LoadN(token.a + i, n);
#pragma GCC unroll 4
          for (int r = 0; r < kRows; ++r) {
            dot[r] = Fma(LoadN(s + r * dim + i, n), a, dot[r]);
          }
        });
    w = SumLanes(dot[0], dot[1], dot[2], dot[3]);
  }
  const float* v = token.v + row;
  Quad u = kRows == 4 ? LoadQuad(v) : Quad{v[0]};
  if (kCorrect == Correction::kAlongKey) u = token.beta * (u + w);
  Vec read[4] = {};
  ForVectors(
      dim, [&](int i, int n) __attribute__((always_inline)) {
        const Vec key = LoadN(token.k + i, n);
        const Vec query = LoadN(token.q + i, n);
        const Vec b = kGeneral ? LoadN(token.b + i, n) : Vec{};
        const Vec carry = kByKey ? LoadN(carries + i, n) : Vec{};
        const Vec scale = kByKey ? LoadN(scales + i, n) : Vec{};
#pragma GCC unroll 4
        for (int r = 0; r < kRows; ++r) {
          float* p = s + r * dim + i;
          const Vec x = LoadN(p, n);
          if (kRead == ReadOrder::kBeforeWrite) {
            read[r] = Fma(x, query, read[r]);
          }
          Vec change = (kByKey ? scale : Broadcast(scales[row + r])) * x;
          change = Fma(key, Broadcast(u[r]), change);
          if (kGeneral) change = Fma(b, Broadcast(w[r]), change);
          const Vec y =
              Fma(kByKey ? carry : Broadcast(carries[row + r]), x, change);
          StoreN(p, y, n);
          if (kPrefetch) __builtin_prefetch(p + kPrefetchFloats, 1);
          if (kRead == ReadOrder::kAfterWrite) {
            read[r] = Fma(y, query, read[r]);
          }
        }
      });
  Quad o = SumLanes(read[0], read[1], read[2], read[3]);
  if (kRead == ReadOrder::kBeforeWrite) o += token.bonus * u;
  if (kRows == 4) {
    StoreQuad(token.out + row, o);
  } else {
    token.out[row] = o[0];
  }
}

template <int kVecs,
          DecayKind kDecay,
          Correction kCorrect,
          ReadOrder kRead,
          bool kPrefetch>
void ChannelStepSegment(const ChannelSegment& segment,
                        int value_dim,
                        float* state) {
  const int64_t dim = segment.key_dim;
  for (int block = 0; block < value_dim; block += kBlockRows) {
    const int end = Min(block + kBlockRows, value_dim);
    for (int t = 0; t < segment.tokens; ++t) {
      int row = block;
      for (; row + 4 <= end; row += 4) {
        ChannelStepRows<kVecs, kDecay, kCorrect, kRead, 4, kPrefetch>(
            segment, t, row, state + row * dim);
      }
      for (; row < end; ++row) {
        ChannelStepRows<kVecs, kDecay, kCorrect, kRead, 1, false>(
            segment, t, row, state + row * dim);
      }
    }
  }
}

// Token t of a head is the segment's i-th.
void ReadChannelToken(const RecurrenceArgs& args,
                      int64_t t,
                      int64_t head,
                      int i,
                      ChannelSegment& segment) {
  segment.token[i] = ChannelTokenOf(args, t, head);
  const float* log2_decay = ChannelDecayOf(args, t, head);
  const bool by_key = args.decay == DecayKind::kKey;
  ForVectors(by_key ? args.key_dim : args.value_dim, [&](int j, int n) {
    const DecayVec decay = DecayVecOf(LoadN(log2_decay + j, n));
    StoreN(segment.carry[i] + j, decay.carry, n);
    StoreN(segment.scale[i] + j, decay.scale, n);
  });
}

template <int kVecs, DecayKind kDecay, Correction kCorrect, ReadOrder kRead>
void ChannelStepItems(const RecurrenceArgs& args, int64_t begin, int64_t end) {
  ChannelSegment segment;
  segment.key_dim = args.key_dim;
  for (int64_t item = begin; item < end; ++item) {
    const int64_t row = item / args.heads;
    const int64_t head = item % args.heads;
    if (args.slots[row] < 0) continue;
    float* state = args.state + args.slots[row] * args.state_stride +
                   head * args.key_dim * args.value_dim;
    const int64_t last = args.row_starts[row + 1];
    const bool once = last - args.row_starts[row] == 1;
    for (int64_t t = args.row_starts[row]; t < last; t += kChannelTokens) {
      segment.tokens = static_cast<int>(
          last - t < kChannelTokens ? last - t : kChannelTokens);
      for (int i = 0; i < segment.tokens; ++i) {
        ReadChannelToken(args, t + i, head, i, segment);
      }
      const auto step =
          once ? ChannelStepSegment<kVecs, kDecay, kCorrect, kRead, true>
               : ChannelStepSegment<kVecs, kDecay, kCorrect, kRead, false>;
      step(segment, args.value_dim, state);
    }
  }
}

template <DecayKind kDecay, Correction kCorrect, ReadOrder kRead>
void ChannelStepAnyKey(const RecurrenceArgs& args, int64_t begin, int64_t end) {
  switch (args.key_dim) {
    case 64:
      return ChannelStepItems<64 / kLanes, kDecay, kCorrect, kRead>(
          args, begin, end);
    case 128:
      return ChannelStepItems<128 / kLanes, kDecay, kCorrect, kRead>(
          args, begin, end);
    default:
      return ChannelStepItems<0, kDecay, kCorrect, kRead>(args, begin, end);
  }
}

void ChannelRecurrent(const RecurrenceArgs& args, int64_t begin, int64_t end) {
  const FlushDenormals flush;
  constexpr DecayKind kKey = DecayKind::kKey;
  constexpr ReadOrder kAfter = ReadOrder::kAfterWrite;
  constexpr Correction kNone = Correction::kNone;
  if (args.decay == DecayKind::kValue) {
    ChannelStepAnyKey<DecayKind::kValue, kNone, kAfter>(args, begin, end);
  } else if (args.read == ReadOrder::kBeforeWrite) {
    ChannelStepAnyKey<kKey, kNone, ReadOrder::kBeforeWrite>(args, begin, end);
  } else if (args.a.data == nullptr) {
    ChannelStepAnyKey<kKey, kNone, kAfter>(args, begin, end);
  } else if (args.b.data == nullptr) {
    ChannelStepAnyKey<kKey, Correction::kAlongKey, kAfter>(args, begin, end);
  } else {
    ChannelStepAnyKey<kKey, Correction::kGeneral, kAfter>(args, begin, end);
  }
}

}  // namespace
}  // namespace weir::engine
