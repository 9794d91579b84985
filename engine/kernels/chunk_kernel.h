// SPDX-License-Identifier: Apache-2.0
//
// The chunk form: C = 64 tokens at a time as matrix products. With c_i the sum
// of log2 decays from the chunk's start to token i, D_ij = 2^(c_i - c_j):
//
//   u_i = beta_i (v_i - 2^c_i S^T k_i - sum_{j<i} D_ij (k_i.k_j) u_j)
//   o_i = 2^c_i S^T q_i + sum_{j<=i} D_ij (q_i.k_j) u_j
//   S   <- 2^c_C S + sum_i k_i (2^(c_C - c_i) u_i)^T
//
// u is found by forward substitution; without a delta rule u = v. The c_i and
// their differences are fp64, and only differences <= 0 are exponentiated.
//
// While a row lasts its state lies in scratch as [K, V]: then every product is
// out[m][n] += a[m][c] b[c][n], a broadcast by element, b by contiguous
// vectors. Rows are padded by one cache line, so that powers of two do not
// meet in the same cache sets. Heads that share keys go through a chunk
// together and share q.k and k.k.
//
// Bound: recurrence.h. Threads: plain functions. Target files only.
#pragma once

#include "engine/kernels/chunk_products.h"

namespace weir::engine {
namespace {

// The state at the chunk's end; u holds 2^(c_C - c_i) u_i by now.
template <int kVecs>
void StateColumns(const ChunkScratch& s,
                  const HeadChunk& a,
                  const float* scratch,
                  int n) {
  const int64_t stride = s.value_stride;
  const float* u = scratch + s.u + n;
  const Vec carry = Broadcast(a.update.carry);
  const Vec scale = Broadcast(a.update.scale);
  for (int m = 0; m < s.key_rows; m += 4) {
    Vec acc[4][kVecs] = {};
    const float* k = scratch + s.k_transposed + int64_t{m} * kScoreStride;
    Accumulate(k, kScoreStride, u, stride, a.tokens, acc);
    for (int r = 0; r < 4; ++r) {
      for (int x = 0; x < kVecs; ++x) {
        float* p = a.state + (m + r) * stride + n + x * kLanes;
        const Vec old = Load(p);
        Store(p, Fma(carry, old, Fma(scale, old, acc[r][x])));
      }
    }
  }
}

template <bool kDelta>
void RunHeadChunk(const ChunkScratch& s, HeadChunk& a, float* scratch) {
  PrepareWeights<kDelta>(s, a, scratch);
  float* u = scratch + s.u;
  for (int t = 0; t < a.rows; ++t) {
    const bool is_token = t < a.tokens;
    CopyRow(is_token ? a.v + t * a.v_stride : a.v,
            is_token ? s.value_dim : 0,
            s.value_width,
            u + int64_t{t} * s.value_stride);
  }
  if (kDelta) {
    ForColumns(s.value_width, [&]<int kVecs>(int n) {
      SolveColumns<kVecs>(s, a, scratch, n);
    });
  }
  ForColumns(s.value_width,
             [&]<int kVecs>(int n) { OutputColumns<kVecs>(s, a, scratch, n); });
  for (int t = 0; t < a.tokens; ++t) {
    const Vec write = Broadcast(a.write[t]);
    float* row = u + int64_t{t} * s.value_stride;
    for (int i = 0; i < s.value_width; i += kLanes) {
      Store(row + i, write * Load(row + i));
    }
  }
  ForColumns(s.value_width,
             [&]<int kVecs>(int n) { StateColumns<kVecs>(s, a, scratch, n); });
}

// Points `a` at tokens [first, first + tokens) of a head and reads its gates.
template <bool kDelta>
void ReadHeadChunk(const RecurrenceArgs& args,
                   int64_t first,
                   int tokens,
                   int64_t head,
                   HeadChunk& a) {
  a.tokens = tokens;
  a.rows = RoundUp(tokens, 4);
  a.v = args.v.data + first * args.v.stride + head * args.value_dim;
  a.v_stride = args.v.stride;
  a.out = args.out + first * args.out_stride + head * args.value_dim;
  a.out_stride = args.out_stride;
  double sum = 0;
  for (int i = 0; i < tokens; ++i) {
    const double x =
        args.log2_decay.data[(first + i) * args.log2_decay.stride + head];
    sum += x < kLog2DecayMin ? kLog2DecayMin : x;
    a.sum[i] = sum;
    a.beta[i] =
        kDelta ? args.beta.data[(first + i) * args.beta.stride + head] : 1;
  }
  for (int i = tokens; i < a.rows; ++i) a.beta[i] = 0;
}

// Heads [head, head + heads) of a row; they share a key head.
template <bool kDelta>
void ChunkHeads(const RecurrenceArgs& args,
                const ChunkScratch& s,
                int32_t row,
                int64_t head,
                int heads,
                float* scratch) {
  const int64_t first = args.row_starts[row];
  const int64_t last = args.row_starts[row + 1];
  const int64_t key_head = head / (args.heads / args.key_heads);
  const int64_t head_floats = int64_t{s.key_dim} * s.value_dim;
  const int64_t scratch_floats = int64_t{s.key_rows} * s.value_stride;
  float* slot = args.state + args.slots[row] * args.state_stride;
  for (int h = 0; h < heads; ++h) {
    float* state = scratch + s.states + h * scratch_floats;
    for (int64_t i = 0; i < scratch_floats; ++i) state[i] = 0;
    Transpose(slot + (head + h) * head_floats,
              s.key_dim,
              s.value_dim,
              s.key_dim,
              state,
              s.value_stride);
  }
  HeadChunk a;
  for (int64_t t = first; t < last; t += kChunk) {
    const int tokens = static_cast<int>(last - t < kChunk ? last - t : kChunk);
    PrepareKeys<kDelta>(args, s, t, tokens, key_head, scratch);
    for (int h = 0; h < heads; ++h) {
      ReadHeadChunk<kDelta>(args, t, tokens, head + h, a);
      a.state = scratch + s.states + h * scratch_floats;
      RunHeadChunk<kDelta>(s, a, scratch);
    }
  }
  for (int h = 0; h < heads; ++h) {
    Transpose(scratch + s.states + h * scratch_floats,
              s.value_stride,
              s.key_dim,
              s.value_dim,
              slot + (head + h) * head_floats,
              s.key_dim);
  }
}

void HeadDecayChunk(const RecurrenceArgs& args,
                    int64_t begin,
                    int64_t end,
                    float* scratch) {
  const FlushDenormals flush;
  const ChunkScratch s = LayOut(args);
  const int64_t sharing = args.heads / args.key_heads;
  int64_t item = begin;
  while (item < end) {
    const auto row = static_cast<int32_t>(item / args.heads);
    const int64_t head = item % args.heads;
    int64_t heads = sharing - head % sharing;
    if (heads > s.heads) heads = s.heads;
    if (heads > end - item) heads = end - item;
    item += heads;
    if (args.slots[row] < 0) continue;
    if (args.row_starts[row] == args.row_starts[row + 1]) continue;
    const int together = static_cast<int>(heads);
    if (args.beta.data != nullptr) {
      ChunkHeads<true>(args, s, row, head, together, scratch);
    } else {
      ChunkHeads<false>(args, s, row, head, together, scratch);
    }
  }
}

}  // namespace
}  // namespace weir::engine
