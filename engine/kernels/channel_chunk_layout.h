// SPDX-License-Identifier: Apache-2.0
//
// How the chunk form with a decay a channel lies in its scratch, and what is
// done to the keys of a chunk: channel_chunk_kernel.h.
//
// Threads: plain functions. Included by the target files only.
#pragma once

#include "engine/kernels/channel_recurrent_kernel.h"
#include "engine/kernels/chunk_layout.h"

namespace weir::engine {
namespace {

constexpr int kSmallChunk = 16;

struct ChannelScratch {
  int key_dim;
  int key_rows;  // K to a multiple of 4
  int key_stride;
  int value_dim;
  int value_width;
  int value_stride;
  // Offsets in floats; all rows are 64-byte aligned.
  int64_t keys;          // [C, key_stride], k_j decayed so far
  int64_t corrections;   // likewise, b_j
  int64_t decay;         // [key_stride or value_stride], P as a logarithm
  int64_t update;        // [2, the same], carry and scale of P_C
  int64_t query_reads;   // [C, key_stride], q_i P
  int64_t remove_reads;  // likewise, a_i P
  int64_t transposed;    // [2 key_rows, C], keys and corrections at the end
  int64_t scores;        // [4, C, C]: q.k, q.b, a.k, a.b
  int64_t values;        // [C, value_stride]
  int64_t removed;       // likewise, w
  int64_t reads;         // [C, value_stride], P by value channel
  int64_t state;         // [key_rows, value_stride]
  int64_t floats;
};

ChannelScratch ChannelLayOut(const RecurrenceArgs& args) {
  ChannelScratch s;
  s.key_dim = args.key_dim;
  s.key_rows = RoundUp(args.key_dim, 4);
  s.key_stride = RoundUp(args.key_dim, 16) + 16;
  s.value_dim = args.value_dim;
  s.value_width = RoundUp(args.value_dim, kLanes);
  s.value_stride = RoundUp(args.value_dim, 16) + 16;
  const int64_t keys = int64_t{kSmallChunk} * s.key_stride;
  const int64_t values = int64_t{kSmallChunk} * s.value_stride;
  const int64_t channels =
      args.decay == DecayKind::kValue ? s.value_stride : s.key_stride;
  s.keys = 0;
  s.corrections = s.keys + keys;
  s.decay = s.corrections + keys;
  s.update = s.decay + channels;
  s.query_reads = s.update + 2 * channels;
  s.remove_reads = s.query_reads + keys;
  s.transposed = s.remove_reads + keys;
  s.scores = s.transposed + int64_t{2} * s.key_rows * kSmallChunk;
  s.values = s.scores + int64_t{4} * kSmallChunk * kSmallChunk;
  s.removed = s.values + values;
  s.reads = s.removed + values;
  s.state = s.reads + values;
  s.floats = s.state + int64_t{s.key_rows} * s.value_stride;
  return s;
}

// One chunk of one head.
struct SmallChunk {
  int tokens;
  ChannelToken token[kSmallChunk];
  const float* log2_decay[kSmallChunk];
  float* query_key;             // [C, C]
  float* query_remove;          // q.b
  float* remove_key;            // a.k
  float* remove_remove;         // a.b
  float diagonal[kSmallChunk];  // o_i takes this much of v_i
};

// scores[j] = x . keys_j for j < count, four keys at a time.
WEIR_INLINE void DotKeys(const float* x,
                         const float* keys,
                         const ChannelScratch& s,
                         int count,
                         float* scores) {
  int j = 0;
  for (; j + 4 <= count; j += 4) {
    Vec sum[4] = {};
    ForVectors(s.key_dim, [&](int i, int n) {
      const Vec y = LoadN(x + i, n);
      for (int r = 0; r < 4; ++r) {
        const float* key = keys + int64_t{j + r} * s.key_stride;
        sum[r] = Fma(y, LoadN(key + i, n), sum[r]);
      }
    });
    StoreQuad(scores + j, SumLanes(sum[0], sum[1], sum[2], sum[3]));
  }
  for (; j < count; ++j) {
    scores[j] = Dot<0>(x, keys + int64_t{j} * s.key_stride, s.key_dim);
  }
}

// Decays the first `count` rows of keys by the channels of `log2_decay`.
WEIR_INLINE void DecayKeys(const float* log2_decay,
                           const ChannelScratch& s,
                           int count,
                           float* keys) {
  ForVectors(s.key_dim, [&](int i, int n) {
    const Vec decay = Exp2(LoadN(log2_decay + i, n));
    for (int j = 0; j < count; ++j) {
      float* key = keys + int64_t{j} * s.key_stride + i;
      StoreN(key, LoadN(key, n) * decay, n);
    }
  });
}

// to = x P, of which `log2` is the logarithm.
WEIR_INLINE void ReadThrough(const float* x,
                             const float* log2,
                             int dim,
                             float* to) {
  ForVectors(dim, [&](int i, int n) {
    StoreN(to + i, LoadN(x + i, n) * Exp2(LoadN(log2 + i, n)), n);
  });
}

}  // namespace
}  // namespace weir::engine
