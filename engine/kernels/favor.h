// SPDX-License-Identifier: Apache-2.0
//
// FAVOR+, the Performer's positive random features (arXiv 2009.14794), as an
// online recurrence. With u = W x of a scaled x, h = |x|^2 / 2 and m features,
// queries take
//
//   a = e^(u - h - max u) + eps         A the sum of a head's a
//
// and keys, below the greatest u of all keys so far, M:
//
//   M' = max(M, max u)      e = e^(u - h - M')
//   S <- e^(M - M') S + e v^T,  z <- e^(M - M') z + e     by recurrence.h and
//                                                         running_sum.h
//   o = (S^T a + eps A sum(v)) / (a.z + eps A n)
//
// over the n tokens so far. The published keys are e + eps below the greatest u
// of the whole sequence: on each prefix o is what they give for its last token.
//
// Threads and slots of -1: as recurrence.h; FavorKeys does work items
// [begin, end) of rows * heads, the others tokens.
#pragma once

#include <cstdint>

#include "engine/kernels/recurrence.h"

namespace weir::engine {

// M of a state that has met no key: far below every u, and far from the end of
// the range.
inline constexpr float kFavorEmpty = -1e30F;

struct FavorQueryArgs {
  int32_t heads = 0;
  int32_t features = 0;         // m
  float* u = nullptr;           // [T, heads, m], contiguous; becomes a
  const float* half = nullptr;  // [T, heads], h
  float eps = 0;
  float* sums = nullptr;  // [T, heads], A
};
void FavorQueriesReference(const FavorQueryArgs& args,
                           int64_t begin,
                           int64_t end);
void FavorQueries(const FavorQueryArgs& args, int64_t begin, int64_t end);

struct FavorKeyArgs {
  int32_t rows = 0;
  int32_t heads = 0;
  int32_t features = 0;                 // m
  const int32_t* row_starts = nullptr;  // [rows + 1]
  const int32_t* slots = nullptr;       // [rows]
  float* u = nullptr;                   // [T, heads, m], contiguous; becomes e
  const float* half = nullptr;          // [T, heads], h
  float* log2_decay = nullptr;          // [T, heads], (M - M') log2(e), <= 0
  float* state = nullptr;               // [slots][heads], M, in and out
  int64_t state_stride = 0;             // floats between two slots of state
};
void FavorKeysReference(const FavorKeyArgs& args);
void FavorKeys(const FavorKeyArgs& args, int64_t begin, int64_t end);

struct FavorReadArgs {
  int32_t heads = 0;
  int32_t value_dim = 0;          // V
  float* x = nullptr;             // [T, heads, V], S^T a; becomes o
  const float* sums = nullptr;    // [T, heads], A
  const float* dots = nullptr;    // [T, heads], a.z or a little more
  const float* values = nullptr;  // [T, heads, V], the sum of v
  const float* count = nullptr;   // [T], n
  float eps = 0;
};
void FavorRead(const FavorReadArgs& args, int64_t begin, int64_t end);

}  // namespace weir::engine
