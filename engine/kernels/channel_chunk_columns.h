// SPDX-License-Identifier: Apache-2.0
//
// What the chunk form with a decay a channel does to columns of V, once the
// work along K is done: channel_chunk_kernel.h has the formulas.
//
// Threads: plain functions. Included by the target files only.
#pragma once

#include "engine/kernels/channel_chunk_layout.h"

namespace weir::engine {
namespace {

// acc[r] += sum_{j < count_r} weights[r][j] rows[j]: a lower triangle, so that
// no later token is touched. Row r stands for token first + r.
template <int kVecs>
WEIR_INLINE void AddEarlier(const float* weights,
                            const float* rows,
                            int64_t stride,
                            int count,
                            Vec (&acc)[kVecs]) {
  for (int j = 0; j < count; ++j) {
    const Vec weight = Broadcast(weights[j]);
#pragma GCC unroll 4
    for (int x = 0; x < kVecs; ++x) {
      acc[x] = Fma(weight, Load(rows + j * stride + x * kLanes), acc[x]);
    }
  }
}

// The state's columns at the chunk's end.
template <int kVecs, Correction kCorrect>
void UpdateByKey(const ChannelScratch& s,
                 const SmallChunk& c,
                 float* scratch,
                 int n) {
  const int64_t stride = s.value_stride;
  float* state = scratch + s.state + n;
  const float* values = scratch + s.values + n;
  const float* removed = scratch + s.removed + n;
  const float* carry = scratch + s.update;
  const float* scale = carry + s.key_stride;
  const float* keys = scratch + s.transposed;
  const float* corrections = keys + int64_t{s.key_rows} * kSmallChunk;
  for (int m = 0; m < s.key_dim; m += 4) {
    Vec acc[4][kVecs] = {};
    const int at = m * kSmallChunk;
    Accumulate(keys + at, kSmallChunk, values, stride, c.tokens, acc);
    if (kCorrect == Correction::kGeneral) {
      Accumulate(corrections + at, kSmallChunk, removed, stride, c.tokens, acc);
    }
    for (int r = 0; r < Min(4, s.key_dim - m); ++r) {
      for (int x = 0; x < kVecs; ++x) {
        float* p = state + (m + r) * stride + x * kLanes;
        const Vec old = Load(p);
        const Vec change = Fma(Broadcast(scale[m + r]), old, acc[r][x]);
        Store(p, Fma(Broadcast(carry[m + r]), old, change));
      }
    }
  }
}

// kVecs vectors of columns from n, by key channel.
template <int kVecs, Correction kCorrect, ReadOrder kRead>
void ColumnsByKey(const ChannelScratch& s,
                  const SmallChunk& c,
                  float* scratch,
                  int n) {
  const int64_t stride = s.value_stride;
  float* state = scratch + s.state + n;
  float* values = scratch + s.values + n;
  float* removed = scratch + s.removed + n;
  for (int t = 0; t < c.tokens; t += 4) {
    const int rows = Min(4, c.tokens - t);
    Vec w[4][kVecs] = {};
    Vec o[4][kVecs] = {};
    const int64_t row = int64_t{t} * s.key_stride;
    if (kCorrect != Correction::kNone) {
      Accumulate(scratch + s.remove_reads + row,
                 s.key_stride,
                 state,
                 stride,
                 s.key_dim,
                 w);
    }
    Accumulate(scratch + s.query_reads + row,
               s.key_stride,
               state,
               stride,
               s.key_dim,
               o);
    for (int r = 0; r < rows; ++r) {
      const int i = t + r;
      const int scores = i * kSmallChunk;
      if (kCorrect == Correction::kAlongKey) {
        AddEarlier(c.remove_key + scores, values, stride, i, w[r]);
        const Vec beta = Broadcast(c.token[i].beta);
        for (int x = 0; x < kVecs; ++x) {
          float* u = values + i * stride + x * kLanes;
          Store(u, beta * (Load(u) + w[r][x]));
        }
      }
      if (kCorrect == Correction::kGeneral) {
        AddEarlier(c.remove_key + scores, values, stride, i, w[r]);
        AddEarlier(c.remove_remove + scores, removed, stride, i, w[r]);
        for (int x = 0; x < kVecs; ++x) {
          Store(removed + i * stride + x * kLanes, w[r][x]);
        }
        AddEarlier(c.query_remove + scores, removed, stride, i + 1, o[r]);
      }
      AddEarlier(c.query_key + scores, values, stride, i, o[r]);
      const Vec diagonal = Broadcast(c.diagonal[i]);
      for (int x = 0; x < kVecs; ++x) {
        const Vec v = Load(values + i * stride + x * kLanes);
        const int column = n + x * kLanes;
        StoreN(c.token[i].out + column,
               Fma(diagonal, v, o[r][x]),
               Min(kLanes, s.value_dim - column));
      }
    }
  }
  UpdateByKey<kVecs, kCorrect>(s, c, scratch, n);
}

// kVecs vectors of columns from n, by value channel: v_j is carried.
template <int kVecs>
void ColumnsByValue(const ChannelScratch& s,
                    const SmallChunk& c,
                    float* scratch,
                    int n) {
  const int64_t stride = s.value_stride;
  float* state = scratch + s.state + n;
  float* values = scratch + s.values + n;
  Vec log2[kVecs] = {};
  for (int t = 0; t < c.tokens; ++t) {
    Vec o[1][kVecs] = {};
    Accumulate(scratch + s.query_reads + int64_t{t} * s.key_stride,
               s.key_stride,
               state,
               stride,
               s.key_dim,
               o);
    for (int x = 0; x < kVecs; ++x) {
      const int column = n + x * kLanes;
      const int count = Min(kLanes, s.value_dim - column);
      const Vec step = LoadN(c.log2_decay[t] + column, count);
      log2[x] = log2[x] + step;
      o[0][x] = o[0][x] * Exp2(log2[x]);
      const Vec decay = Exp2(step);
      for (int j = 0; j < t; ++j) {
        float* v = values + j * stride + x * kLanes;
        Store(v, Load(v) * decay);
      }
    }
    AddEarlier(c.query_key + t * kSmallChunk, values, stride, t + 1, o[0]);
    for (int x = 0; x < kVecs; ++x) {
      const int column = n + x * kLanes;
      StoreN(
          c.token[t].out + column, o[0][x], Min(kLanes, s.value_dim - column));
    }
  }
  const float* keys = scratch + s.transposed;
  for (int m = 0; m < s.key_dim; m += 4) {
    Vec acc[4][kVecs] = {};
    Accumulate(
        keys + m * kSmallChunk, kSmallChunk, values, stride, c.tokens, acc);
    for (int r = 0; r < Min(4, s.key_dim - m); ++r) {
      for (int x = 0; x < kVecs; ++x) {
        float* p = state + (m + r) * stride + x * kLanes;
        const DecayVec update = DecayVecOf(log2[x]);
        const Vec old = Load(p);
        const Vec change = Fma(update.scale, old, acc[r][x]);
        Store(p, Fma(update.carry, old, change));
      }
    }
  }
}

}  // namespace
}  // namespace weir::engine
