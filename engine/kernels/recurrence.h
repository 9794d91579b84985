// SPDX-License-Identifier: Apache-2.0
//
// The recurrence over a ragged batch, scalar decay. Per row r, head h, token t:
//
//   S <- d_t S                         d_t = 2^log2_decay, at most 1
//   u  = beta_t (v_t - S^T k_t)        with a delta rule (beta != nullptr)
//   u  = v_t                           without
//   S <- S + k_t u^T                   S: [K, V]
//   o_t = S^T q_t
//
// With beta this is Gated DeltaNet (arXiv 2412.06464), without it Mamba-2
// (arXiv 2405.21060, q = C, k = B, v = dt x). S is stored V-first, [V, K] with
// K contiguous, so that both products with S run along the contiguous axis.
//
// Row r owns tokens [row_starts[r], row_starts[r + 1]) and the state of
// slots[r], which is read at its first token and written after its last. A
// slot of -1 is padding: the row is skipped before any address is formed.
//
// Threads: none of their own. A call does work items [begin, end) of
// rows * heads, item = row * heads + head; disjoint ranges may run in parallel.
//
// REQUIRES: no slot twice in `slots`; log2_decay <= 0; key_heads divides heads.
#pragma once

#include <cstdint>

namespace weir::engine {

// Floats of one token lie together; `stride` floats part two tokens.
struct TokenRows {
  const float* data = nullptr;
  int64_t stride = 0;
};

struct RecurrenceArgs {
  int32_t rows = 0;
  int32_t heads = 0;      // value heads
  int32_t key_heads = 0;  // head h reads q and k of h / (heads / key_heads)
  int32_t key_dim = 0;    // K
  int32_t value_dim = 0;  // V
  const int32_t* row_starts = nullptr;  // [rows + 1]
  const int32_t* slots = nullptr;       // [rows]
  TokenRows q;                          // [T][key_heads, K], scaled
  TokenRows k;                          // [T][key_heads, K]
  TokenRows v;                          // [T][heads, V]
  TokenRows log2_decay;                 // [T][heads]
  TokenRows beta;                       // [T][heads], or data == nullptr
  float* out = nullptr;                 // [T][heads, V]
  int64_t out_stride = 0;               // floats between two tokens of out
  float* state = nullptr;               // [slots][heads, V, K], in and out
  int64_t state_stride = 0;             // floats between two slots of state
};

// The definition: fp64 arithmetic on an fp64 copy of the state, rounded to
// fp32 once at the end of each row. Every other form is held against it.
void RecurrenceReference(const RecurrenceArgs& args);

// One token after another; one pass over the state a token, both products from
// one read. For rows of few tokens. Any K and V.
// Bound: 8 K V bytes of state a token, head and row once beyond the caches.
void RecurrenceRecurrent(const RecurrenceArgs& args,
                         int64_t begin,
                         int64_t end);

// Chunks of 64 tokens as matrix products, the delta rule's triangular system
// by forward substitution in fp32; a row's last chunk may be shorter. The
// state is read and written once a chunk.
// Bound: about 2 (2 C K + 2 C V + 3 K V) FLOPs a token and head, C = 64.
void RecurrenceChunk(const RecurrenceArgs& args, int64_t begin, int64_t end);

// From this many tokens of a row on, the chunk form is the one to take.
// Measured by bench/kernels, one core of a Xeon (model 207), delta rule: time
// of the recurrent form over that of the chunk form for K = V = 64, 128 and
// 256.
//   AVX-512:   16 tokens 1.0, 1.0, 1.0; 64 tokens 1.1, 1.5, 2.0;
//              256 tokens 1.2, 1.7, 2.3; 4,096 tokens 1.2, 1.9, 2.4.
//   AVX2:      64 tokens 0.9, 1.2, 1.4; 4,096 tokens 0.9, 1.3, 1.7.
//   baseline:  64 tokens 0.6, 0.7, 0.9; 4,096 tokens 0.7, 0.8, 1.0.
inline constexpr int32_t kChunkTokensMin = 64;

// The vector instructions that the two forms were chosen for on this machine:
// "avx512", "avx2" or "baseline".
const char* CpuKernelTarget();

}  // namespace weir::engine
