// SPDX-License-Identifier: Apache-2.0
//
// The products of one chunk and the triangular system between them:
// chunk_kernel.h has the formulas.
//
// Threads: plain functions. Included by the target files only.
#pragma once

#include "engine/kernels/chunk_layout.h"
#include "engine/kernels/decay_math.h"
#include "engine/kernels/vector_math.h"

namespace weir::engine {
namespace {

// The lower triangle of x k^T, in tiles of 8 rows by one vector. The sums are
// made of sums of kPartialDim products: an error in k_i.k_j comes back in every
// later token of the chunk, and with beta = 2 and equal keys nothing damps it.
void Scores(const ChunkScratch& s,
            const float* x,
            const float* k_transposed,
            int tokens,
            float* scores) {
  for (int n = 0; n < tokens; n += kLanes) {
    for (int m = n / 8 * 8; m < tokens; m += 8) {
      Vec sum[8] = {};
      for (int c = 0; c < s.key_dim; c += kPartialDim) {
        Vec acc[8][1] = {};
        Accumulate(x + int64_t{m} * s.key_stride + c,
                   s.key_stride,
                   k_transposed + int64_t{c} * kScoreStride + n,
                   kScoreStride,
                   Min(kPartialDim, s.key_dim - c),
                   acc);
        for (int r = 0; r < 8; ++r) sum[r] += acc[r][0];
      }
      for (int r = 0; r < 8; ++r) {
        Store(scores + (m + r) * kScoreStride + n, sum[r]);
      }
    }
  }
}

// What the heads of one key head share of tokens [first, first + tokens).
template <bool kDelta>
void PrepareKeys(const RecurrenceArgs& args,
                 const ChunkScratch& s,
                 int64_t first,
                 int tokens,
                 int64_t key_head,
                 float* scratch) {
  const int64_t offset = key_head * s.key_dim;
  float* q = scratch + s.q;
  float* k = scratch + s.k;
  const int padded = RoundUp(tokens, 16);
  for (int t = 0; t < padded; ++t) {
    const int width = t < tokens ? s.key_dim : 0;
    const int64_t token = t < tokens ? first + t : first;
    const int64_t to = int64_t{t} * s.key_stride;
    const float* query = args.q.data + token * args.q.stride + offset;
    const float* key = args.k.data + token * args.k.stride + offset;
    CopyRow(query, width, s.key_rows, q + to);
    CopyRow(key, width, s.key_rows, k + to);
  }
  float* k_transposed = scratch + s.k_transposed;
  Transpose(k, s.key_stride, padded, s.key_rows, k_transposed, kScoreStride);
  Scores(s, q, k_transposed, tokens, scratch + s.query_scores);
  if (kDelta) Scores(s, k, k_transposed, tokens, scratch + s.key_scores);
}

// The decays, and the weights D_ij (q_i.k_j) and -D_ij (k_i.k_j), j <= i.
template <bool kDelta>
void PrepareWeights(const ChunkScratch& s, HeadChunk& a, float* scratch) {
  const int tokens = a.tokens;
  const double last = a.sum[tokens - 1];
  a.update = DecayOf(last);
  for (int i = 0; i < tokens; ++i) {
    a.read[i] = static_cast<float>(a.sum[i]);
    a.write[i] = static_cast<float>(last - a.sum[i]);
  }
  for (int i = tokens; i < kChunk; ++i) a.read[i] = a.write[i] = 0;
  for (int i = 0; i < tokens; i += kLanes) {
    Store(a.read + i, Exp2(Load(a.read + i)));
    Store(a.write + i, Exp2(Load(a.write + i)));
  }

  float decay[kChunk] = {};
  for (int i = 0; i < a.rows; ++i) {
    const int64_t row = int64_t{i} * kScoreStride;
    const bool is_token = i < tokens;
    for (int j = 0; is_token && j <= i; ++j) {
      decay[j] = static_cast<float>(a.sum[i] - a.sum[j]);
    }
    for (int j = 0; j <= i; j += kLanes) {
      const Vec zero = {};
      const Vec d = Exp2(Load(decay + j));
      const Vec y = Load(scratch + s.query_scores + row + j);
      Store(scratch + s.query_weights + row + j, is_token ? d * y : zero);
      if (!kDelta) continue;
      const Vec x = Load(scratch + s.key_scores + row + j);
      Store(scratch + s.key_weights + row + j, is_token ? -(d * x) : zero);
    }
  }
}

// u in the place of v, kVecs vectors of columns from n. Blocks of 4 tokens:
// the earlier blocks as a product, the 4 among themselves one by one.
template <int kVecs>
void SolveColumns(const ChunkScratch& s,
                  const HeadChunk& a,
                  float* scratch,
                  int n) {
  const int64_t stride = s.value_stride;
  float* u = scratch + s.u + n;
  for (int m = 0; m < a.rows; m += 4) {
    Vec acc[4][kVecs] = {};
    const float* k = scratch + s.k + int64_t{m} * s.key_stride;
    Accumulate(k, s.key_stride, a.state + n, stride, s.key_dim, acc);
    for (int r = 0; r < 4; ++r) {
      const Vec read = Broadcast(-a.read[m + r]);
      for (int x = 0; x < kVecs; ++x) {
        const Vec v = Load(u + (m + r) * stride + x * kLanes);
        acc[r][x] = Fma(read, acc[r][x], v);
      }
    }
    const float* weights = scratch + s.key_weights + int64_t{m} * kScoreStride;
    Accumulate(weights, kScoreStride, u, stride, m, acc);
#pragma GCC unroll 4
    for (int r = 0; r < 4; ++r) {
      const Vec beta = Broadcast(a.beta[m + r]);
#pragma GCC unroll 4
      for (int x = 0; x < kVecs; ++x) {
#pragma GCC unroll 4
        for (int j = 0; j < r; ++j) {
          const Vec weight = Broadcast(weights[r * kScoreStride + m + j]);
          acc[r][x] = Fma(weight, acc[j][x], acc[r][x]);
        }
        acc[r][x] = beta * acc[r][x];
        Store(u + (m + r) * stride + x * kLanes, acc[r][x]);
      }
    }
  }
}

// The outputs. Token i reads no u after its own: what a later token brings,
// NaN too, must not show in an earlier one.
template <int kVecs>
void OutputColumns(const ChunkScratch& s,
                   const HeadChunk& a,
                   const float* scratch,
                   int n) {
  const int64_t stride = s.value_stride;
  const float* u = scratch + s.u + n;
  for (int m = 0; m < a.rows; m += 4) {
    Vec acc[4][kVecs] = {};
    const float* q = scratch + s.q + int64_t{m} * s.key_stride;
    Accumulate(q, s.key_stride, a.state + n, stride, s.key_dim, acc);
    for (int r = 0; r < 4; ++r) {
      const Vec read = Broadcast(a.read[m + r]);
      for (int x = 0; x < kVecs; ++x) acc[r][x] = read * acc[r][x];
    }
    const float* weights =
        scratch + s.query_weights + int64_t{m} * kScoreStride;
    Accumulate(weights, kScoreStride, u, stride, m, acc);
#pragma GCC unroll 4
    for (int r = 0; r < 4; ++r) {
      if (m + r >= a.tokens) break;
#pragma GCC unroll 4
      for (int x = 0; x < kVecs; ++x) {
#pragma GCC unroll 4
        for (int j = 0; j <= r; ++j) {
          const Vec weight = Broadcast(weights[r * kScoreStride + m + j]);
          const Vec y = Load(u + (m + j) * stride + x * kLanes);
          acc[r][x] = Fma(weight, y, acc[r][x]);
        }
        const int column = n + x * kLanes;
        StoreN(a.out + (m + r) * a.out_stride + column,
               acc[r][x],
               Min(kLanes, s.value_dim - column));
      }
    }
  }
}

}  // namespace
}  // namespace weir::engine
