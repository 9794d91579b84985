// SPDX-License-Identifier: Apache-2.0
//
// What RWKV-6 and RWKV-7 put around the recurrence, fp32.
//
// Threads: none of their own. A call does tokens [begin, end); disjoint ranges
// may run in parallel.
#pragma once

#include <cstdint>

namespace weir::engine {

// RWKV-7's terms (arXiv 2503.14456), per head of K channels:
//
//   log2_decay = -e^-1/2 sigmoid(w) log2(e)
//   u = k k_k / sqrt(sum (k k_k)^2 + eps),  i = sigmoid(rate)
//   a = -u,  b = u i,  k <- k (1 + (i - 1) k_a)
//
// All [T, heads, K], contiguous.
struct Rwkv7TermArgs {
  int32_t heads = 0;
  int32_t key_dim = 0;         // K
  float eps = 0;               // at least the smallest normal float
  const float* k_k = nullptr;  // [heads, K]
  const float* k_a = nullptr;  // [heads, K]
  float* w = nullptr;          // in: w; out: log2_decay
  float* rate = nullptr;       // in: rate; out: b
  float* k = nullptr;          // in and out
  float* a = nullptr;          // out
};
void Rwkv7Terms(const Rwkv7TermArgs& args, int64_t begin, int64_t end);

// v += (first - v) sigmoid(mix): the values of a later layer lean on those of
// the first. All [T, width], contiguous.
void Rwkv7Values(const float* first,
                 const float* mix,
                 int32_t width,
                 float* v,
                 int64_t begin,
                 int64_t end);

// y <- (y + (sum_K r k r_k) v) g, per head: the token's own value past the
// norm, then the gate.
struct Rwkv7BonusArgs {
  int32_t heads = 0;
  int32_t key_dim = 0;         // K
  int32_t value_dim = 0;       // V
  const float* r_k = nullptr;  // [heads, K]
  const float* r = nullptr;    // [T, heads, K]
  const float* k = nullptr;    // [T, heads, K]
  const float* v = nullptr;    // [T, heads, V]
  const float* g = nullptr;    // [T, heads, V]
  float* y = nullptr;          // [T, heads, V], in and out
};
void Rwkv7Bonus(const Rwkv7BonusArgs& args, int64_t begin, int64_t end);

// RWKV-6's decay, w <- -exp(w) log2(e), over w [count].
void Rwkv6Decay(float* w, int64_t count);

}  // namespace weir::engine
