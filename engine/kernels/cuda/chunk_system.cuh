// SPDX-License-Identifier: Apache-2.0
//
// With the delta rule: what a chunk's tokens and gates give that does not
// depend on the state, of all chunks at once, to a workspace in device memory.
#pragma once

#include "engine/kernels/cuda/chunk_inverse.cuh"
#include "engine/kernels/cuda/chunk_scores.cuh"
#include "engine/kernels/cuda/chunk_shared.cuh"
#include "engine/kernels/cuda/chunk_transfer.cuh"

namespace weir::engine {

// Blocks that a multiprocessor has room for; K <= 128.
inline constexpr int kSystemBlocks = 5;

template <int kKeyTiles>
struct SystemShared {
  union {
    KeyTile keys[kKeyTiles];
    // When the products are made.
    struct {
      LowerMatrix lower;
      TwiceTile inverse;
    } system;
  };
  float log2_decay[kChunkTokens];
  float beta[kChunkTokens];
};

// The row and its chunk that have a place in the workspace; false if none has.
__device__ inline bool FindChunk(const ChunkArgs& args,
                                 int32_t at,
                                 int32_t& row,
                                 int32_t& chunk) {
  int32_t low = 0;
  int32_t high = args.rows;
  while (high - low > 1) {
    const int32_t middle = (low + high) / 2;
    if (FirstChunk(args.row_starts, middle) <= at) {
      low = middle;
    } else {
      high = middle;
    }
  }
  row = low;
  chunk = at - static_cast<int32_t>(FirstChunk(args.row_starts, row));
  const int32_t tokens = args.row_starts[row + 1] - args.row_starts[row];
  return args.slots[row] >= 0 && chunk * kChunkTokens < tokens;
}

// Of the warp's block row: writes L, and rounds the scores, from their
// products.
__device__ inline void MakeSystem(const float (&keys)[32],
                                  const float (&queries)[32],
                                  float2 sums,
                                  const float* beta,
                                  int warp,
                                  LowerMatrix& lower,
                                  uint32_t (&scores)[16]) {
#pragma unroll
  for (int block = 0; block < 4; ++block) {
    if (block > warp) continue;
    const float* p = keys + 8 * block;
    const float* s = queries + 8 * block;
    VisitBlock(sums, warp, block, [&](int n, int i, int j, float f, float f_2) {
      scores[4 * block + n / 2] =
          Pack<Number::kHalf>(j <= i ? kKeyScale * f * s[n] : 0.0F,
                              j + 1 <= i ? kKeyScale * f_2 * s[n + 1] : 0.0F);
      const float l = j < i ? beta[i] * f * p[n] : 0.0F;
      const float l_2 = j + 1 < i ? beta[i] * f_2 * p[n + 1] : 0.0F;
      if (block == warp) {
        lower.diagonal[warp][j & 15][i & 15] = l;
        lower.diagonal[warp][(j & 15) + 1][i & 15] = l_2;
      } else {
        StoreTwice(lower.below, i, j, l, l_2);
      }
    });
  }
}

// Leaves the warp's scores in a tile.
__device__ inline void LeaveScores(const uint32_t (&scores)[16],
                                   int warp,
                                   uint8_t* tile) {
  const int lane = Lane();
#pragma unroll
  for (int i = 0; i < 16; ++i) {
    if (i / 4 > warp) continue;
    *reinterpret_cast<uint32_t*>(
        tile + NumberOffset(16 * warp + lane / 4 + (i & 1) * 8,
                            16 * (i / 4) + 2 * (lane & 3) + (i & 2) * 4)) =
        scores[i];
  }
}

// A block has one chunk of a head: blockIdx is (head, place in the workspace),
// so that heads which share keys come together.
template <int kKeyTiles>
__global__ void __launch_bounds__(kWarpgroup,
                                  kKeyTiles <= 2 ? kSystemBlocks : 3)
    ChunkSystemKernel(const __grid_constant__ ChunkArgs args) {
  extern __shared__ __align__(1024) uint8_t memory[];
  auto& shared = *reinterpret_cast<SystemShared<kKeyTiles>*>(memory);
  int32_t row = 0;
  int32_t chunk = 0;
  if (!FindChunk(args, static_cast<int32_t>(blockIdx.y), row, chunk)) return;
  const int32_t head = static_cast<int32_t>(blockIdx.x);
  const int64_t token = args.row_starts[row] + int64_t{chunk} * kChunkTokens;
  const int count = static_cast<int>(
      min(int64_t{kChunkTokens}, args.row_starts[row + 1] - token));
  const int32_t key = head / (args.heads / args.key_heads) * kKeyTiles * 64;
  CopyKeys(args, token, key, count, shared.keys);
  CopyGates(args.log2_decay, token, head, count, shared.log2_decay);
  CopyGates(args.beta, token, head, count, shared.beta);
  CommitCopies();
  WaitCopies<0>();
  ShowToProducts();
  __syncthreads();

  const int warp = __shfl_sync(0xffffffffU, threadIdx.x / 32, 0);
  float keys[32] = {};
  float queries[32] = {};
  BeginProducts();
  MultiplyTokens(shared.keys, &KeyTile::k, keys);
  MultiplyTokens(shared.keys, &KeyTile::q, queries);
  CommitProducts();
  ChunkOperands<true>& operands = static_cast<ChunkOperands<true>*>(
      args.workspace)[int64_t{blockIdx.y} * args.heads + head];
  const float2 sums = SumDecays(shared.log2_decay);
  WriteScales(sums, shared.beta, warp, operands.scales);
  WaitProducts<0>();
  Pin(keys);
  Pin(queries);
  __syncthreads();
  uint32_t scores[16];
  MakeSystem(
      keys, queries, sums, shared.beta, warp, shared.system.lower, scores);
  InvertLower(shared.system.lower, warp, shared.system.inverse);
  uint8_t* tile = shared.system.lower.below[0];
  LeaveScores(scores, warp, tile);
  __syncthreads();
  VisitLowerWords([&](int word) {
    const auto write = [&](uint8_t* to, const uint8_t* from) {
      reinterpret_cast<uint4*>(to)[word] =
          reinterpret_cast<const uint4*>(from)[word];
    };
    write(operands.scores[0], tile);
    write(operands.inverse[0], shared.system.inverse[0]);
    write(operands.inverse[1], shared.system.inverse[1]);
  });
}

}  // namespace weir::engine
