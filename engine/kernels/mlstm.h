// SPDX-License-Identifier: Apache-2.0
//
// What mLSTM (arXiv 2405.04517) has around the recurrence with one decay a
// head. Its gates are exponentials, which a running maximum m of each head
// keeps in range:
//
//   i = cap tanh(i_t / cap)                f likewise, then log sigmoid
//   m' = max(m + log f, i)
//   C <- e^(log f + m - m') C + e^(i - m') k v^T       n <- likewise with v = 1
//   h = s C^T q / (max(|s n^T q|, e^-m') + eps)        s = K^-1/2
//
// n is one more value of the recurrence, so that both come from one pass.
//
// Any m' gives the same h but for eps, so long as the decay and the write are
// of the same one. They are taken, in fp64, from m' as it was rounded: what
// m + log f loses in fp32 is not lost to the state. The logarithms need fp64
// too: what i loses in fp32 is, relative to e^i, |i| times as much.
//
// Threads and slots of -1: as recurrence.h; MlstmGates does its items
// [begin, end), of rows * heads, the others tokens.
#pragma once

#include <cstdint>

#include "engine/kernels/recurrence.h"

namespace weir::engine {

struct MlstmGateArgs {
  int32_t rows = 0;
  int32_t heads = 0;
  const int32_t* row_starts = nullptr;  // [rows + 1]
  const int32_t* slots = nullptr;       // [rows]
  TokenRows input;                      // [T][heads], i_t
  TokenRows forget;                     // [T][heads], f_t
  float cap = 0;
  float* log2_decay = nullptr;  // [T, heads], (log f + m - m') log2(e), <= 0
  float* write = nullptr;       // [T, heads], e^(i - m'), at most 1
  float* floor = nullptr;       // [T, heads], e^-m'
  float* state = nullptr;       // [slots][heads], m, in and out
  int64_t state_stride = 0;     // floats between two slots of state
};

// The definition: fp64, m rounded to fp32 once at the end of each row. Its
// outputs are those of its own m'.
void MlstmGatesReference(const MlstmGateArgs& args);

void MlstmGates(const MlstmGateArgs& args, int64_t begin, int64_t end);

// out = write v, and write itself as each head's last value.
struct MlstmValueArgs {
  int32_t heads = 0;
  int32_t value_dim = 0;         // V
  TokenRows v;                   // [T][heads, V]
  const float* write = nullptr;  // [T, heads]
  float* out = nullptr;          // [T, heads, V + 1]
};
void MlstmValues(const MlstmValueArgs& args, int64_t begin, int64_t end);

// h of what the recurrence made of those values.
struct MlstmReadArgs {
  int32_t heads = 0;
  int32_t value_dim = 0;         // V
  const float* x = nullptr;      // [T, heads, V + 1]: C^T q, then n^T q
  const float* floor = nullptr;  // [T, heads]
  float scale = 0;               // s
  float eps = 0;
  float* out = nullptr;  // [T, heads, V]; not x
};
void MlstmRead(const MlstmReadArgs& args, int64_t begin, int64_t end);

}  // namespace weir::engine
