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
    struct {
      uint8_t q[kKeyTiles][kTileBytes];
      uint8_t k[kKeyTiles][kTileBytes];
    } tokens;
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

// Writes L of the warp's block row, from its products.
__device__ inline void WriteLower(const float (&products)[32],
                                  float2 sums,
                                  const float* beta,
                                  int warp,
                                  LowerMatrix& lower) {
#pragma unroll
  for (int block = 0; block < 4; ++block) {
    if (block > warp) continue;
    const float* p = products + 8 * block;
    VisitBlock(sums, warp, block, [&](int n, int i, int j, float f, float f_2) {
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

// A block has one chunk of a head: blockIdx is (head, place in the workspace),
// so that heads which share keys come together.
template <int kKeyTiles>
__global__ void __launch_bounds__(kWarpgroup,
                                  kKeyTiles <= 2 ? kSystemBlocks : 3)
    ChunkSystemKernel(const __grid_constant__ ChunkArgs args) {
#ifdef __CUDA_ARCH_FEAT_SM90_ALL
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
  CopyTiles<kKeyTiles>(args.k, token, key, count, shared.tokens.k);
  CopyTiles<kKeyTiles>(args.q, token, key, count, shared.tokens.q);
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
  MultiplyTokens<kKeyTiles>(shared.tokens.k, shared.tokens.k, keys);
  MultiplyTokens<kKeyTiles>(shared.tokens.q, shared.tokens.k, queries);
  CommitProducts();
  ChunkOperands<true>& operands = static_cast<ChunkOperands<true>*>(
      args.workspace)[int64_t{blockIdx.y} * args.heads + head];
  const float2 sums = SumDecays(shared.log2_decay);
  WriteScales(sums, shared.beta, warp, operands.scales);
  WaitProducts<0>();
  Pin(keys);
  Pin(queries);
  __syncthreads();
  WriteLower(keys, sums, shared.beta, warp, shared.system.lower);
  WriteScores<Number::kHalf>(
      queries, sums, warp, kKeyScale, operands.scores[0]);
  InvertLower(shared.system.lower, warp, shared.system.inverse);
  VisitLowerWords([&](int word) {
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      reinterpret_cast<uint4*>(operands.inverse[i])[word] =
          reinterpret_cast<const uint4*>(shared.system.inverse[i])[word];
    }
  });
#endif
}

}  // namespace weir::engine
