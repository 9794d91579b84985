// SPDX-License-Identifier: Apache-2.0
//
// A chunk kernel's form and what its block has in shared memory.
//
// The first kGroups warpgroups carry the state of 64 values each from chunk to
// chunk. Those behind them have q, k, v and a chunk's operands, which do not
// depend on the state, brought to shared memory ahead. With the delta rule the
// operands come from device memory, where a kernel before has made them of all
// chunks at once (chunk_system.cuh): the inverse takes one block too long.
#pragma once

#include <cstdint>

#include "engine/kernels/cuda/chunk.h"
#include "engine/kernels/cuda/chunk_wgmma.cuh"

namespace weir::engine {

template <bool kDeltaIn, int kKeyTilesIn, int kGroupsIn, int kStagesIn>
struct ChunkForm {
  static constexpr bool kDelta = kDeltaIn;
  static constexpr int kKeyTiles = kKeyTilesIn;  // K / 64
  static constexpr int kGroups = kGroupsIn;
  static constexpr int kStages = kStagesIn;
  // Without the delta rule and beside two groups the copies and the scores have
  // a warpgroup each.
  static constexpr int kPreparers = kDelta ? 1 : kGroups;
  static constexpr int kThreads = (kGroups + kPreparers) * kWarpgroup;
};

// With the delta rule keys become fp16 this much larger, and values as much
// smaller, that both stay in the range of fp16 with room for what is smaller.
inline constexpr float kKeyScale = 128.0F;

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
  float from_start[kChunkTokens];       // 2^g_i
  float to_end[kChunkTokens];           // 2^(g_last - g_i)
  float beta[kChunkTokens];             // beta_i / kKeyScale
  float beta_from_start[kChunkTokens];  // beta_i 2^g_i / kKeyScale^2
};

// What products with a chunk's values need of the rest of it. Of the tiles the
// blocks of 16 above the diagonal are zero from the start of a kernel on, and
// are neither written nor copied.
template <bool kDelta>
struct ChunkOperands {
  ChunkScales scales;
  uint8_t scores[1][kTileBytes];  // 2^(g_i - g_j) q_i . k_j, j <= i
};
template <>
struct ChunkOperands<true> {
  ChunkScales scales;
  // The same as fp16 and times kKeyScale, and the triangular system's inverse,
  // rounded to fp16 and what that rounded away.
  uint8_t scores[1][kTileBytes];
  uint8_t inverse[2][kTileBytes];
};

template <typename Form>
struct ChunkShared {
  ChunkTokens<Form> tokens[Form::kStages];
  // As many as there may be under way: two that are made here.
  ChunkOperands<Form::kDelta> operands[Form::kDelta ? Form::kStages : 2];
  uint64_t loaded[4];    // a chunk's tokens are there
  uint64_t prepared[3];  // and its operands
  uint64_t carried[3];   // no group needs them any more
};

// Calls visit(word) for the 16-byte words of a tile, in the order of memory,
// that this thread of a warpgroup has of the blocks on and below the diagonal.
template <typename Visit>
__device__ inline void VisitLowerWords(Visit visit) {
  const int thread = static_cast<int>(threadIdx.x) % kWarpgroup;
  const int piece = (thread ^ thread >> 3) & 7;
#pragma unroll
  for (int block = 0; block < 4; ++block) {
    if (piece <= 2 * block + 1) visit(block * kWarpgroup + thread);
  }
}

// Where a row's first chunk has its operands in the workspace, for each head;
// rows lie one behind the other with room for as many chunks as they may have.
__device__ inline int64_t FirstChunk(const int32_t* row_starts, int32_t row) {
  return row_starts[row] / kChunkTokens + row;
}

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
