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

#include "engine/kernels/recurrence.h"
#include "engine/kernels/vector.h"

namespace weir::engine {
namespace {

constexpr int kChunk = 64;
constexpr int kScoreStride = kChunk + 16;
constexpr int kPartialDim = 16;
constexpr int kHeadsTogether = 8;  // bounds the scratch
// 2^-4096 is zero in any format, and sums of 64 stay exact enough in fp64.
constexpr double kLog2DecayMin = -4096;

struct ChunkScratch {
  int key_dim;
  int key_rows;    // K to a multiple of 4
  int key_stride;  // of q and k
  int value_dim;
  int value_width;   // V to whole vectors
  int value_stride;  // of u and states
  int heads;         // states at a time
  // Offsets in floats; all rows are 64-byte aligned.
  int64_t k;              // [C, key_stride], zero from the last token on
  int64_t q;              // likewise
  int64_t k_transposed;   // [key_rows, kScoreStride]
  int64_t key_scores;     // [C, kScoreStride], k_i.k_j
  int64_t query_scores;   // likewise, q_i.k_j
  int64_t key_weights;    // likewise, -D_ij (k_i.k_j)
  int64_t query_weights;  // likewise, D_ij (q_i.k_j)
  int64_t u;              // [C, value_stride]
  int64_t states;         // [heads][key_rows, value_stride]
  int64_t floats;
};

ChunkScratch LayOut(const RecurrenceArgs& args) {
  ChunkScratch s;
  s.key_dim = args.key_dim;
  s.key_rows = RoundUp(args.key_dim, 4);
  s.key_stride = RoundUp(args.key_dim, 16) + 16;
  s.value_dim = args.value_dim;
  s.value_width = RoundUp(args.value_dim, kLanes);
  s.value_stride = RoundUp(args.value_dim, 16) + 16;
  s.heads = Min(args.heads / args.key_heads, kHeadsTogether);
  const int64_t scores = int64_t{kChunk} * kScoreStride;
  s.k = 0;
  s.q = s.k + int64_t{kChunk} * s.key_stride;
  s.k_transposed = s.q + int64_t{kChunk} * s.key_stride;
  s.key_scores = s.k_transposed + int64_t{s.key_rows} * kScoreStride;
  s.query_scores = s.key_scores + scores;
  s.key_weights = s.query_scores + scores;
  s.query_weights = s.key_weights + scores;
  s.u = s.query_weights + scores;
  s.states = s.u + int64_t{kChunk} * s.value_stride;
  s.floats = s.states + int64_t{s.heads} * s.key_rows * s.value_stride;
  return s;
}

int64_t ChunkScratchFloats(const RecurrenceArgs& args) {
  return LayOut(args).floats;
}

// One head of one chunk.
struct HeadChunk {
  int tokens;
  int rows;             // tokens to a multiple of 4
  float read[kChunk];   // 2^c_i
  float write[kChunk];  // 2^(c_C - c_i)
  float beta[kChunk];
  double sum[kChunk];  // c_i
  float forget;        // 1 - 2^c_C
  const float* v;
  int64_t v_stride;
  float* out;
  int64_t out_stride;
  float* state;  // [key_rows, value_stride]
};

// to[c][r] = from[r][c].
void Transpose(const float* from,
               int64_t from_stride,
               int rows,
               int columns,
               float* to,
               int64_t to_stride) {
  const int whole_rows = rows / 4 * 4;
  const int whole_columns = columns / 4 * 4;
  for (int r = 0; r < whole_rows; r += 4) {
    const float* p = from + r * from_stride;
    for (int c = 0; c < whole_columns; c += 4) {
      const Quad x0 = LoadQuad(p + c);
      const Quad x1 = LoadQuad(p + from_stride + c);
      const Quad x2 = LoadQuad(p + 2 * from_stride + c);
      const Quad x3 = LoadQuad(p + 3 * from_stride + c);
      const Quad y0 = __builtin_shufflevector(x0, x1, 0, 4, 1, 5);
      const Quad y1 = __builtin_shufflevector(x2, x3, 0, 4, 1, 5);
      const Quad y2 = __builtin_shufflevector(x0, x1, 2, 6, 3, 7);
      const Quad y3 = __builtin_shufflevector(x2, x3, 2, 6, 3, 7);
      float* z = to + c * to_stride + r;
      StoreQuad(z, __builtin_shufflevector(y0, y1, 0, 1, 4, 5));
      StoreQuad(z + to_stride, __builtin_shufflevector(y0, y1, 2, 3, 6, 7));
      StoreQuad(z + 2 * to_stride, __builtin_shufflevector(y2, y3, 0, 1, 4, 5));
      StoreQuad(z + 3 * to_stride, __builtin_shufflevector(y2, y3, 2, 3, 6, 7));
    }
  }
  for (int r = 0; r < rows; ++r) {
    for (int c = r < whole_rows ? whole_columns : 0; c < columns; ++c) {
      to[c * to_stride + r] = from[r * from_stride + c];
    }
  }
}

void CopyRow(const float* from, int width, int padded_width, float* to) {
  ForVectors(width,
             [&](int i, int n) { StoreN(to + i, LoadN(from + i, n), n); });
  for (int i = width; i < padded_width; ++i) to[i] = 0;
}

// acc[r][x] += sum_{c < count} a[r][c] b[c][x], x vectors; in the order of c,
// whatever the tile.
template <int kRows, int kVecs>
WEIR_INLINE void Accumulate(const float* a,
                            int64_t a_stride,
                            const float* b,
                            int64_t b_stride,
                            int count,
                            Vec (&acc)[kRows][kVecs]) {
  for (int c = 0; c < count; ++c) {
    Vec y[kVecs];
#pragma GCC unroll 4
    for (int x = 0; x < kVecs; ++x) y[x] = Load(b + c * b_stride + x * kLanes);
#pragma GCC unroll 8
    for (int r = 0; r < kRows; ++r) {
      const Vec z = Broadcast(a[r * a_stride + c]);
#pragma GCC unroll 4
      for (int x = 0; x < kVecs; ++x) acc[r][x] = Fma(z, y[x], acc[r][x]);
    }
  }
}

// f.operator()<kVecs>(n) over columns n of a width of whole vectors.
template <typename F>
WEIR_INLINE void ForColumns(int width, F f) {
  int n = 0;
  if constexpr (kTileVecs == 4) {
    for (; n + 4 * kLanes <= width; n += 4 * kLanes) {
      f.template operator()<4>(n);
    }
  }
  for (; n + 2 * kLanes <= width; n += 2 * kLanes) {
    f.template operator()<2>(n);
  }
  for (; n < width; n += kLanes) f.template operator()<1>(n);
}

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
  a.forget = static_cast<float>(-Exp2Minus1(last));
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

// The state at the chunk's end; u holds 2^(c_C - c_i) u_i by now.
template <int kVecs>
void StateColumns(const ChunkScratch& s,
                  const HeadChunk& a,
                  const float* scratch,
                  int n) {
  const int64_t stride = s.value_stride;
  const float* u = scratch + s.u + n;
  const Vec keep_less = Broadcast(-a.forget);
  for (int m = 0; m < s.key_rows; m += 4) {
    Vec acc[4][kVecs] = {};
    const float* k = scratch + s.k_transposed + int64_t{m} * kScoreStride;
    Accumulate(k, kScoreStride, u, stride, a.tokens, acc);
    for (int r = 0; r < 4; ++r) {
      for (int x = 0; x < kVecs; ++x) {
        float* p = a.state + (m + r) * stride + n + x * kLanes;
        const Vec old = Load(p);
        Store(p, Fma(keep_less, old, old) + acc[r][x]);
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

void Chunk(const RecurrenceArgs& args,
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
