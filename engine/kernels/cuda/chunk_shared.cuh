// SPDX-License-Identifier: Apache-2.0
//
// A chunk kernel's form and what its block has in shared memory.
//
// The first kGroups warpgroups carry the state of 64 values each from chunk to
// chunk. Those behind them prepare chunks ahead: copies of q, k and v, scores,
// and the inverse of the delta rule's system, which do not depend on the state.
// Beside two groups there are two such warpgroups, beside one, whose state may
// need every register, only one.
#pragma once

#include <cstdint>

#include "engine/kernels/cuda/chunk.h"
#include "engine/kernels/cuda/chunk_inverse.cuh"
#include "engine/kernels/cuda/chunk_wgmma.cuh"

namespace weir::engine {

template <bool kDeltaIn, int kKeyTilesIn, int kGroupsIn, int kStagesIn>
struct ChunkForm {
  static constexpr bool kDelta = kDeltaIn;
  static constexpr int kKeyTiles = kKeyTilesIn;  // K / 64
  static constexpr int kGroups = kGroupsIn;
  static constexpr int kStages = kStagesIn;
  static constexpr int kPreparers = kGroups;
  static constexpr int kThreads = (kGroups + kPreparers) * kWarpgroup;
  // Of four warpgroups the copying one has the fewest registers, and, with the
  // delta rule, makes the scores.
  static constexpr bool kScoresByWarp = kDelta && kPreparers == 2;
  // How many warpgroups a chunk's operands are of.
  static constexpr int kMakers = kScoresByWarp ? 2 : 1;
};

// What one chunk brings from device memory: tiles of 64 tokens.
template <typename Form>
struct ChunkTokens {
  uint8_t q[Form::kKeyTiles][kTileBytes];
  uint8_t k[Form::kKeyTiles][kTileBytes];
  uint8_t v[Form::kGroups][kTileBytes];  // becomes out
  float log2_decay[kChunkTokens];
  float beta[kChunkTokens];
  uint8_t pad[512];
};

// g_i, the sum of log2 decays up to token i, as factors.
struct ChunkScales {
  float from_start[kChunkTokens];  // 2^g_i
  float to_end[kChunkTokens];      // 2^(g_last - g_i)
  float beta[kChunkTokens];
  float beta_from_start[kChunkTokens];
};

// Of the delta rule; without it nothing.
template <bool kDelta>
struct ChunkSystem {};
template <>
struct ChunkSystem<true> {
  TwiceTile inverse;
};
template <bool kDelta>
struct ChunkLower {};
template <>
struct ChunkLower<true> {
  LowerMatrix lower;
};

// What is prepared of a chunk.
template <bool kDelta>
struct ChunkOperands : ChunkSystem<kDelta> {
  uint8_t scores[kTileBytes];  // 2^(g_i - g_j) q_i . k_j, j <= i
  ChunkScales scales;
};

template <typename Form>
struct ChunkShared {
  ChunkTokens<Form> tokens[Form::kStages];
  ChunkOperands<Form::kDelta> operands[2];
  ChunkLower<Form::kDelta> system;
  uint64_t loaded[4];    // a chunk's tokens are there
  uint64_t prepared[2];  // and its operands
  uint64_t carried[2];   // no group needs them any more
};

// Where a block's row and head lie.
struct ChunkPlace {
  int64_t first_token;
  int32_t tokens;
  int32_t head;
  int32_t key_head;
  int32_t first_value;  // of the block

  __device__ int chunks() const {
    return (tokens + kChunkTokens - 1) / kChunkTokens;
  }
  // Tokens of a chunk.
  __device__ int TokensOf(int chunk) const {
    return min(kChunkTokens, tokens - chunk * kChunkTokens);
  }
};

}  // namespace weir::engine
