// SPDX-License-Identifier: Apache-2.0
//
// Gates that decay each channel by its own amount, fp32, as log2_decay of
// recurrence.h wants them.
//
// Threads: none of their own. A call does tokens [begin, end); disjoint ranges
// may run in parallel.
#pragma once

#include <cstdint>

#include "engine/kernels/recurrence.h"

namespace weir::engine {

// GLA (arXiv 2312.06635): log2_decay = max(logsigmoid(x) scale, low) log2(e).
// x [T][width]; log2_decay [T, width], contiguous; may be the same array.
struct LogSigmoidArgs {
  int32_t width = 0;
  TokenRows x;
  float scale = 1;
  float low = 0;  // at most 0; 0: no bound
  float* log2_decay = nullptr;
};
void LogSigmoidDecays(const LogSigmoidArgs& args, int64_t begin, int64_t end);

// KDA (arXiv 2510.26692), per value head of K channels:
//
//   log2_decay = -exp(a_log) softplus(f + dt_bias) log2(e), or with a bound
//   log2_decay = bound sigmoid(exp(a_log) (f + dt_bias)) log2(e)
//   a = -2^log2_decay k,  beta = beta_scale sigmoid(b)
struct KdaGateArgs {
  int32_t heads = 0;
  int32_t key_heads = 0;           // divides heads
  int32_t key_dim = 0;             // K
  TokenRows f;                     // [T][heads, K]
  TokenRows b;                     // [T][heads]
  TokenRows k;                     // [T][key_heads, K]
  const float* a_log = nullptr;    // [heads]
  const float* dt_bias = nullptr;  // [heads, K]
  float bound = 0;                 // below 0; 0: none
  float beta_scale = 1;
  float* log2_decay = nullptr;  // [T, heads, K], contiguous
  float* a = nullptr;           // likewise
  float* beta = nullptr;        // [T, heads], contiguous
};
void KdaGates(const KdaGateArgs& args, int64_t begin, int64_t end);

// GDN-2 (arXiv 2605.22791): a decay and an erase gate for each key channel, per
// key head, written out for each value head that reads it:
//
//   log2_decay = -exp(a_log) softplus(f + dt_bias) log2(e)
//   a = -2^log2_decay (erase_scale sigmoid(b) k)
struct Gdn2GateArgs {
  int32_t heads = 0;
  int32_t key_heads = 0;           // divides heads
  int32_t key_dim = 0;             // K
  TokenRows f;                     // [T][key_heads, K]
  TokenRows b;                     // likewise
  TokenRows k;                     // likewise
  const float* a_log = nullptr;    // [key_heads]
  const float* dt_bias = nullptr;  // [key_heads, K]
  float erase_scale = 1;
  float* log2_decay = nullptr;  // [T, heads, K], contiguous
  float* a = nullptr;           // likewise
};
void Gdn2Gates(const Gdn2GateArgs& args, int64_t begin, int64_t end);

// HGRN2 (arXiv 2404.07904): d = low + (1 - low) sigmoid(f), k = 1 - d. low
// [width], or nullptr for 0; log2_decay and k [T, width], contiguous.
struct HgrnGateArgs {
  int32_t width = 0;
  TokenRows f;  // [T][width]
  const float* low = nullptr;
  float* log2_decay = nullptr;
  float* k = nullptr;
};
void HgrnGates(const HgrnGateArgs& args, int64_t begin, int64_t end);

}  // namespace weir::engine
