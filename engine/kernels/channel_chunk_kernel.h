// SPDX-License-Identifier: Apache-2.0
//
// The chunk form with a decay a channel: C = 16 tokens at a time. With P_i the
// product of the decays up to token i and x^(i) a key of token j < i decayed up
// to i,
//
//   w_i = (a_i P_{i-1})^T S + sum_{j<i} (a_i.k_j^(i-1)) v_j + (a_i.b_j^(i-1))
//   w_j o_i = (q_i P_i)^T S + sum_{j<=i} (q_i.k_j^(i)) v_j + (q_i.b_j^(i)) w_j
//   S  <- P_C S + sum_j k_j^(C) v_j^T + b_j^(C) w_j^T
//
// A correction along the key takes v_i to beta_i (v_i + w_i) and has no b: two
// terms that nearly cancel would leave their rounding in the state for ever.
//
// The decayed keys are carried from token to token, each multiplied once a
// token: no exponent is ever positive and none is a difference, whatever the
// decays are. P, which the state meets, is made of sums of logarithms, so that
// decays next to one are not lost. Reading before the write, o_i takes P_{i-1},
// the keys of i - 1 and the bonus. With a decay a value channel the values are
// carried in place of the keys.
//
// While a row lasts its state lies in scratch as [K, V], as in chunk_kernel.h.
//
// Bound: recurrence.h. Threads: plain functions. Target files only.
#pragma once

#include "engine/kernels/channel_chunk_columns.h"

namespace weir::engine {
namespace {

// All of a chunk's work along K: reads, scores, and the keys at its end.
template <Correction kCorrect, ReadOrder kRead>
void PrepareByKey(const ChannelScratch& s, SmallChunk& c, float* scratch) {
  constexpr bool kGeneral = kCorrect == Correction::kGeneral;
  float* keys = scratch + s.keys;
  float* corrections = scratch + s.corrections;
  float* decay = scratch + s.decay;
  ForVectors(s.key_dim, [&](int i, int n) { StoreN(decay + i, Vec{}, n); });
  for (int t = 0; t < c.tokens; ++t) {
    const ChannelToken& token = c.token[t];
    const int64_t row = int64_t{t} * s.key_stride;
    const int scores = t * kSmallChunk;
    if (kCorrect != Correction::kNone) {
      ReadThrough(token.a, decay, s.key_dim, scratch + s.remove_reads + row);
      DotKeys(token.a, keys, s, t, c.remove_key + scores);
    }
    if (kGeneral) {
      DotKeys(token.a, corrections, s, t, c.remove_remove + scores);
    }
    if (kRead == ReadOrder::kBeforeWrite) {
      ReadThrough(token.q, decay, s.key_dim, scratch + s.query_reads + row);
      DotKeys(token.q, keys, s, t, c.query_key + scores);
    }
    DecayKeys(c.log2_decay[t], s, t, keys);
    if (kGeneral) DecayKeys(c.log2_decay[t], s, t, corrections);
    ForVectors(s.key_dim, [&](int i, int n) {
      StoreN(decay + i, LoadN(decay + i, n) + LoadN(c.log2_decay[t] + i, n), n);
    });
    CopyRow(token.k, s.key_dim, s.key_dim, keys + row);
    if (kGeneral) CopyRow(token.b, s.key_dim, s.key_dim, corrections + row);
    if (kRead == ReadOrder::kAfterWrite) {
      ReadThrough(token.q, decay, s.key_dim, scratch + s.query_reads + row);
      DotKeys(token.q, keys, s, t + 1, c.query_key + scores);
      if (kGeneral)
        DotKeys(token.q, corrections, s, t + 1, c.query_remove + scores);
      c.diagonal[t] = c.query_key[scores + t];
    } else {
      c.diagonal[t] = token.bonus;
    }
  }
  float* carry = scratch + s.update;
  float* scale = carry + s.key_stride;
  ForVectors(s.key_dim, [&](int i, int n) {
    const DecayVec update = DecayVecOf(LoadN(decay + i, n));
    StoreN(carry + i, update.carry, n);
    StoreN(scale + i, update.scale, n);
  });
}

// Keys and queries as they are: nothing decays along K.
void PrepareByValue(const ChannelScratch& s, SmallChunk& c, float* scratch) {
  float* keys = scratch + s.keys;
  for (int t = 0; t < c.tokens; ++t) {
    const int64_t row = int64_t{t} * s.key_stride;
    CopyRow(c.token[t].k, s.key_dim, s.key_dim, keys + row);
    CopyRow(c.token[t].q, s.key_dim, s.key_dim, scratch + s.query_reads + row);
    DotKeys(c.token[t].q, keys, s, t + 1, c.query_key + t * kSmallChunk);
  }
}

template <DecayKind kDecay, Correction kCorrect, ReadOrder kRead>
void RunSmallChunk(const ChannelScratch& s, SmallChunk& c, float* scratch) {
  for (int t = 0; t < c.tokens; ++t) {
    CopyRow(c.token[t].v,
            s.value_dim,
            s.value_width,
            scratch + s.values + int64_t{t} * s.value_stride);
  }
  if (kDecay == DecayKind::kKey) {
    PrepareByKey<kCorrect, kRead>(s, c, scratch);
  } else {
    PrepareByValue(s, c, scratch);
  }
  float* keys = scratch + s.transposed;
  Transpose(
      scratch + s.keys, s.key_stride, c.tokens, s.key_dim, keys, kSmallChunk);
  if (kCorrect == Correction::kGeneral) {
    Transpose(scratch + s.corrections,
              s.key_stride,
              c.tokens,
              s.key_dim,
              keys + int64_t{s.key_rows} * kSmallChunk,
              kSmallChunk);
  }
  ForColumns(s.value_width, [&]<int kVecs>(int n) {
    if constexpr (kDecay == DecayKind::kKey) {
      ColumnsByKey<kVecs, kCorrect, kRead>(s, c, scratch, n);
    } else {
      ColumnsByValue<kVecs>(s, c, scratch, n);
    }
  });
}

// One head of one row.
template <DecayKind kDecay, Correction kCorrect, ReadOrder kRead>
void ChannelChunkHead(const RecurrenceArgs& args,
                      const ChannelScratch& s,
                      int64_t row,
                      int64_t head,
                      float* scratch) {
  float* slot = args.state + args.slots[row] * args.state_stride +
                head * args.key_dim * args.value_dim;
  float* state = scratch + s.state;
  Transpose(slot, s.key_dim, s.value_dim, s.key_dim, state, s.value_stride);
  for (int i = 0; i < s.key_dim; ++i) {
    float* padding = state + int64_t{i} * s.value_stride;
    for (int j = s.value_dim; j < s.value_width; ++j) padding[j] = 0;
  }
  float* scores = scratch + s.scores;
  constexpr int kScores = kSmallChunk * kSmallChunk;
  SmallChunk c;
  c.query_key = scores;
  c.query_remove = scores + kScores;
  c.remove_key = scores + 2 * kScores;
  c.remove_remove = scores + 3 * kScores;
  const int64_t last = args.row_starts[row + 1];
  for (int64_t t = args.row_starts[row]; t < last; t += kSmallChunk) {
    c.tokens =
        static_cast<int>(last - t < kSmallChunk ? last - t : kSmallChunk);
    for (int i = 0; i < c.tokens; ++i) {
      c.token[i] = ChannelTokenOf(args, t + i, head);
      c.log2_decay[i] = ChannelDecayOf(args, t + i, head);
    }
    RunSmallChunk<kDecay, kCorrect, kRead>(s, c, scratch);
  }
  Transpose(state, s.value_stride, s.key_dim, s.value_dim, slot, s.key_dim);
}

template <DecayKind kDecay, Correction kCorrect, ReadOrder kRead>
void ChannelChunkItems(const RecurrenceArgs& args,
                       int64_t begin,
                       int64_t end,
                       float* scratch) {
  const ChannelScratch s = ChannelLayOut(args);
  for (int64_t item = begin; item < end; ++item) {
    const int64_t row = item / args.heads;
    if (args.slots[row] < 0) continue;
    if (args.row_starts[row] == args.row_starts[row + 1]) continue;
    ChannelChunkHead<kDecay, kCorrect, kRead>(
        args, s, row, item % args.heads, scratch);
  }
}

void ChannelChunk(const RecurrenceArgs& args,
                  int64_t begin,
                  int64_t end,
                  float* scratch) {
  constexpr DecayKind kKey = DecayKind::kKey;
  constexpr ReadOrder kAfter = ReadOrder::kAfterWrite;
  const FlushDenormals flush;
  constexpr Correction kNone = Correction::kNone;
  if (args.decay == DecayKind::kValue) {
    ChannelChunkItems<DecayKind::kValue, kNone, kAfter>(
        args, begin, end, scratch);
  } else if (args.read == ReadOrder::kBeforeWrite) {
    ChannelChunkItems<kKey, kNone, ReadOrder::kBeforeWrite>(
        args, begin, end, scratch);
  } else if (args.a.data == nullptr) {
    ChannelChunkItems<kKey, kNone, kAfter>(args, begin, end, scratch);
  } else if (args.b.data == nullptr) {
    ChannelChunkItems<kKey, Correction::kAlongKey, kAfter>(
        args, begin, end, scratch);
  } else {
    ChannelChunkItems<kKey, Correction::kGeneral, kAfter>(
        args, begin, end, scratch);
  }
}

}  // namespace
}  // namespace weir::engine
