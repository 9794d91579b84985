// SPDX-License-Identifier: Apache-2.0
//
// Drawing tokens from logits, and scoring given ones, on a GPU.
//
// A draw means what engine/sampling.h says: penalty, temperature, top-k, top-p
// within the k, min-p, then one number of the generator keyed by (seed,
// position). Weights are integers of 2^-40 of the largest, and their sums are
// exact: a row's token depends on its own logits and parameters alone, to the
// bit, and nothing is sorted. What is less probable than 2^-41 of the most
// probable token, at the row's temperature, is not drawn.
//
// Bound: bytes of device memory, each logit once.
//
// Threads: any; the work is put on the caller's stream and holds no count that
// a captured step would have to change.
#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>

namespace weir::engine {

inline constexpr int32_t kDrawVocabularyMax = 1 << 22;
// On a device whose blocks do not form clusters, before 9.0.
inline constexpr int32_t kDrawVocabularyMaxOfOneBlock = 1 << 20;

// How one row is drawn; the numbers mean what Sampling's do.
struct DrawRow {
  uint64_t seed = 0;
  uint64_t position = 0;
  float temperature = 1;
  int32_t top_k = 0;
  float top_p = 1;
  float min_p = 0;
  float repetition_penalty = 1;
  // Its part of DrawArgs::recent; tokens beyond the vocabulary are passed over.
  uint32_t recent_begin = 0;
  uint32_t recent_count = 0;
  uint32_t is_active =
      0;  // 0: the row is skipped, its results left as they are
};

// Arrays lie in device memory.
struct DrawArgs {
  int32_t rows = 0;
  int32_t vocabulary = 0;               // 1 to kDrawVocabularyMax
  const float* logits = nullptr;        // [rows][vocabulary]
  int64_t stride = 0;                   // floats between two rows
  const DrawRow* parameters = nullptr;  // [rows]
  const uint32_t* recent = nullptr;
  uint32_t* tokens = nullptr;  // [rows]
  // [rows], natural log, under the model itself: without penalty and
  // temperature.
  float* log_probs = nullptr;
  // [rows]: 0 where a logit is not finite, or not after its penalty; then
  // nothing is drawn and the row's token and log_prob are left as they are.
  uint32_t* finite = nullptr;
};

// cudaErrorInvalidValue for what the kernel does not take; else the launch's.
cudaError_t DrawTokens(const DrawArgs& args, cudaStream_t stream);

// scores[r] = log_softmax(logits[r])[targets[r]]; NaN if a logit of the row is
// not finite or the target lies beyond the vocabulary. Arrays lie in device
// memory.
struct TokenScoresArgs {
  int64_t rows = 0;
  int32_t vocabulary = 0;
  const float* logits = nullptr;      // [rows][vocabulary]
  int64_t stride = 0;                 // floats between two rows
  const uint32_t* targets = nullptr;  // [rows]
  float* scores = nullptr;            // [rows], natural log
};
cudaError_t TokenScores(const TokenScoresArgs& args, cudaStream_t stream);

}  // namespace weir::engine
