// SPDX-License-Identifier: Apache-2.0
//
// The recurrence over a ragged batch. Per row r, head h, token t:
//
//   S <- Diag(d_t) S + b_t (a_t^T S) + k_t v_t^T      S: [K, V]
//   o_t = S^T q_t
//
// with d = 2^log2_decay, at most 1; a^T S is taken on the state before decay.
// Its parts, as `decay`, `beta`, `a`, `b` and `read` choose them:
//
//   decay   one for the head, or one a key channel; or one a value channel,
//           S <- S Diag(d_t) + ...
//   beta    the delta rule, b (a^T S) = -beta k (d k^T S) and beta v for v:
//           Gated DeltaNet (arXiv 2412.06464); one decay for the head
//   a       a correction along the key, b = beta k and beta v for v, where
//           beta may be missing and is 1: KDA (arXiv 2510.26692), GDN-2
//           (arXiv 2605.22791); a decay a key channel
//   a, b    any correction: RWKV-7; a decay a key channel
//   rest    the state is state + rest, for sums that nothing damps; one decay
//           for the head and no correction. The chunk form, whose sums are 64
//           times as few, moves what it can of the rest into the state
//   read    before the write: o_t = S_{t-1}^T q_t + (q_t . (bonus k_t)) v_t,
//           RWKV-6 (arXiv 2404.05892); a decay a key channel
//
// Without beta and a it is linear attention with decay: Mamba-2
// (arXiv 2405.21060, q = C, k = B, v = dt x), GLA (arXiv 2312.06635). S is
// stored V-first, [V, K] with K contiguous, so that the products with S run
// along the contiguous axis.
//
// Row r owns tokens [row_starts[r], row_starts[r + 1]) and the state of
// slots[r], which is read at its first token and written after its last. A
// slot of -1 is padding: the row is skipped before any address is formed.
//
// Threads: none of their own. A call does work items [begin, end) of
// rows * heads, item = row * heads + head; disjoint ranges may run in parallel.
//
// REQUIRES: no slot twice in `slots`; log2_decay <= 0; key_heads divides heads;
// only the combinations named above; K or V <= kChannelsMax if it decays.
#pragma once

#include <cstdint>

namespace weir::engine {

// Floats of one token lie together; `stride` floats part two tokens.
struct TokenRows {
  const float* data = nullptr;
  int64_t stride = 0;
};

enum class DecayKind { kHead, kKey, kValue };
enum class ReadOrder { kAfterWrite, kBeforeWrite };

// Channels that may have a decay each.
inline constexpr int32_t kChannelsMax = 1024;

struct RecurrenceArgs {
  DecayKind decay = DecayKind::kHead;
  ReadOrder read = ReadOrder::kAfterWrite;
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
  TokenRows log2_decay;                 // [T][heads], [T][heads, K or V]
  TokenRows beta = {};                  // [T][heads], or data == nullptr
  TokenRows a = {};                     // [T][heads, K], or data == nullptr
  TokenRows b = {};                     // likewise; without it beta k
  const float* bonus = nullptr;         // [heads, K], read before the write
  float* out = nullptr;                 // [T][heads, V]
  int64_t out_stride = 0;               // floats between two tokens of out
  float* state = nullptr;               // [slots][heads, V, K], in and out
  int64_t state_stride = 0;             // floats between two slots of state
  float* rest = nullptr;                // like state: what it rounded away
  int64_t rest_stride = 0;
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

// Chunks of tokens as matrix products, the correction's triangular system by
// forward substitution in fp32; a row's last chunk may be shorter. The state is
// read and written once a chunk, of 64 tokens with one decay for the head, of
// 16 with a decay a channel.
// Bound: about 2 (2 C K + 2 C V + 3 K V) FLOPs a token and head, C = 64; with a
// decay a channel 2 (4 K V + 6 C K + 2 C V), C = 16, with a correction.
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
