// SPDX-License-Identifier: Apache-2.0
//
// A chunk kernel's form and what its block has in shared memory.
//
// The first kGroups warpgroups carry the state of 64 values each from chunk to
// chunk. The last prepares chunks ahead of them: it has the copies of q, k and
// v under way, and multiplies and inverts what does not depend on the state.
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
  static constexpr int kThreads = (kGroups + 1) * kWarpgroup;
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

// What the preparing warpgroup makes of a chunk.
struct ChunkOperands {
  uint8_t scores[kTileBytes];  // 2^(g_i - g_j) q_i . k_j, j <= i
  TwiceTile inverse;           // of the triangular system
  ChunkScales scales;
};

template <typename Form>
struct ChunkShared {
  ChunkTokens<Form> tokens[Form::kStages];
  ChunkOperands operands[2];
  LowerMatrix lower;
  uint64_t prepared[2];  // a chunk's operands and tokens are there
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
