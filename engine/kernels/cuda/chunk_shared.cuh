// SPDX-License-Identifier: Apache-2.0
//
// A chunk kernel's form and what its block has in shared memory.
//
// The first kGroups warpgroups carry the state of 64 values each from chunk to
// chunk. Those behind them have q, k, v and a chunk's operands, which do not
// depend on the state, brought to shared memory ahead. With the delta rule the
// operands come from device memory, where a kernel before has made them of all
// chunks at once (chunk_system.cuh, chunk_channel_system.cuh): the inverse
// takes one block too long.
#pragma once

#include <cuda_fp16.h>

#include <cstdint>
#include <type_traits>

#include "engine/kernels/cuda/chunk.h"
#include "engine/kernels/cuda/chunk_tile.cuh"

namespace weir::engine {

template <int kKeyTiles>
struct ChannelOperands;
template <bool kDelta>
struct ChunkOperands;

// Which decay and correction there are: with a decay a key channel what goes
// with the delta rule serves without a correction too.
enum class ChunkKind { kPlain, kDelta, kChannel };

template <ChunkKind kKindIn, int kKeyTilesIn, int kGroupsIn, int kStagesIn>
struct ChunkForm {
  static constexpr ChunkKind kKind = kKindIn;
  static constexpr bool kDelta = kKind != ChunkKind::kPlain;
  static constexpr bool kChannel = kKind == ChunkKind::kChannel;
  static constexpr int kKeyTiles = kKeyTilesIn;  // K / 64
  static constexpr int kGroups = kGroupsIn;
  static constexpr int kStages = kStagesIn;
  // Copies have a warpgroup, and what is made of them ahead another; without
  // the delta rule and beside one group both are one's.
  static constexpr int kPreparers = kDelta ? 2 : kGroups;
  // A block that does all in turn, chunk_alone.cuh.
  static constexpr bool kAlone = kStages == 1;
  static constexpr int kThreads =
      kAlone ? kWarpgroup : (kGroups + kPreparers) * kWarpgroup;
  using Operands = std::conditional_t<kChannel,
                                      ChannelOperands<kKeyTiles>,
                                      ChunkOperands<kDelta>>;
};

// With the delta rule keys become fp16 this much larger, and values as much
// smaller, that both stay in the range of fp16 with room for what is smaller.
inline constexpr float kKeyScale = 128.0F;

// 64 channels of a chunk's keys and queries, which one product reads as 128
// columns.
struct KeyTile {
  uint8_t k[kTileBytes];
  uint8_t q[kTileBytes];
};

template <int kTiles>
struct KeyTiles {
  KeyTile keys[kTiles];
};
template <>
struct KeyTiles<0> {};

// What one chunk brings from device memory: tiles of 64 tokens. With a decay a
// key channel the keys are among the operands.
template <typename Form>
struct ChunkTokens : KeyTiles<Form::kChannel ? 0 : Form::kKeyTiles> {
  uint8_t v[Form::kGroups][kTileBytes];  // becomes out
  float log2_decay[kChunkTokens];
  float beta[kChunkTokens];
  uint8_t pad[512];
};

// Whether a launch before makes operands of all chunks.
inline bool HasSystem(const ChunkArgs& args) {
  return args.beta.data != nullptr || args.decay == DecayKind::kKey;
}

// With a decay a key channel likewise, and queries too; without a correction
// keys may be of any length.
struct ChannelScale {
  float key;
  float query;  // of scores; that of what meets the state is larger
};
inline constexpr float kReadScale = 8.0F;  // so many times
__host__ __device__ inline ChannelScale ScaleOf(const ChunkArgs& args) {
  return args.beta.data != nullptr ? ChannelScale{kKeyScale, 16.0F}
                                   : ChannelScale{1.0F, 1.0F};
}

// g_i, the sum of log2 decays up to token i, as factors.
struct ChunkScales {
  float from_start[kChunkTokens];  // 2^g_i
  union {
    float to_end[kChunkTokens];        // 2^(g_last - g_i)
    __half to_end_half[kChunkTokens];  // with the delta rule
  };
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

// The same with a decay a key channel, where G_i is a channel's sum of log2
// decays up to token i; and queries and keys as fp16 with those decays.
struct ChannelScales {
  float key_decay[2 * kChunkTokens];    // 2^G_last of each channel
  float beta[kChunkTokens];             // as ChunkScales
  float beta_from_start[kChunkTokens];  // without a decay
};
template <int kKeyTiles>
struct ChannelOperands {
  ChannelScales scales;
  uint8_t scores[1][kTileBytes];
  uint8_t inverse[2][kTileBytes];
  KeyTile keys[kKeyTiles];                // k 2^G_i, q 2^G_i
  uint8_t writes[kKeyTiles][kTileBytes];  // k 2^(G_last - G_i)
};

template <typename Form>
struct ChunkShared {
  ChunkTokens<Form> tokens[Form::kStages];
  // As many as there may be under way: two that are made here.
  typename Form::Operands operands[Form::kDelta ? Form::kStages : 2];
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

// What a block has: tokens of one row, values of one head.
template <typename Form>
struct ChunkPlace {
  int64_t first_token;
  int32_t tokens;
  bool has_values;  // else they are zero
  bool has_out;
  float out_scale;  // of what products give
  int32_t head;
  int32_t key_head;
  int32_t first_value;  // of the block
  // With the delta rule: of the first chunk; those of other heads lie between
  // one chunk's and the next one's.
  const typename Form::Operands* operands;

  __device__ int chunks() const {
    return (tokens + kChunkTokens - 1) / kChunkTokens;
  }
  // Tokens of a chunk.
  __device__ int TokensOf(int chunk) const {
    return min(kChunkTokens, tokens - chunk * kChunkTokens);
  }
};

}  // namespace weir::engine
