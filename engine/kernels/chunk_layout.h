// SPDX-License-Identifier: Apache-2.0
//
// How the chunk form lies in its scratch, and the tiles that its products are
// made of: chunk_kernel.h.
//
// Threads: plain functions. Included by the target files only.
#pragma once

#include "engine/kernels/decay_math.h"
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

// One head of one chunk.
struct HeadChunk {
  int tokens;
  int rows;             // tokens to a multiple of 4
  float read[kChunk];   // 2^c_i
  float write[kChunk];  // 2^(c_C - c_i)
  float beta[kChunk];
  double sum[kChunk];  // c_i
  Decay update;        // 2^c_C
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

}  // namespace
}  // namespace weir::engine
