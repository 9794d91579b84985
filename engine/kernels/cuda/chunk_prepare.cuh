// SPDX-License-Identifier: Apache-2.0
//
// The preparing warpgroup of a chunk kernel (chunk_shared.cuh).
#pragma once

#include <cuda_bf16.h>

#include "engine/kernels/cuda/chunk_fragment.cuh"
#include "engine/kernels/cuda/chunk_inverse.cuh"
#include "engine/kernels/cuda/chunk_shared.cuh"

namespace weir::engine {

inline constexpr int kPrepareBarrier = 1;

// Copies columns [0, 64 kTiles) of a chunk's tokens to tiles; tokens from
// `count` on are zero.
template <int kTiles>
__device__ inline void CopyTiles(const BfloatRows& rows,
                                 int64_t token,
                                 int32_t column,
                                 int count,
                                 uint8_t (*tiles)[kTileBytes]) {
  const int thread = static_cast<int>(threadIdx.x) % kWarpgroup;
  const int piece = thread & 7;
  const uint32_t to = SharedAddress(tiles) + PieceOffset(thread >> 3, piece);
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    const int row = (thread >> 3) + 16 * i;
    const bool here = row < count;
    const __nv_bfloat16* from = rows.data +
                                (token + (here ? row : 0)) * rows.stride +
                                column + 8 * piece;
#pragma unroll
    for (int tile = 0; tile < kTiles; ++tile) {
      CopyAsync<16>(
          to + i * 16 * 128 + tile * kTileBytes, from + 64 * tile, here);
    }
  }
}

// Puts a chunk's copies under way, or none beyond the last chunk.
template <typename Form>
__device__ inline void CopyTokens(const ChunkArgs& args,
                                  const ChunkPlace& place,
                                  int chunk,
                                  ChunkShared<Form>& shared) {
  if (chunk < place.chunks()) {
    ChunkTokens<Form>& to = shared.tokens[chunk % Form::kStages];
    const int64_t token = place.first_token + int64_t{chunk} * kChunkTokens;
    const int count = place.TokensOf(chunk);
    const int key = place.key_head * Form::kKeyTiles * 64;
    CopyTiles<Form::kKeyTiles>(args.k, token, key, count, to.k);
    CopyTiles<Form::kKeyTiles>(args.q, token, key, count, to.q);
    CopyTiles<Form::kGroups>(args.v,
                             token,
                             place.head * args.value_dim + place.first_value,
                             count,
                             to.v);
    const int thread = static_cast<int>(threadIdx.x) % kWarpgroup;
    const int row = thread % kChunkTokens;
    const bool here = row < count;
    const int64_t from = token + (here ? row : 0);
    if (thread < kChunkTokens) {
      CopyAsync<4>(
          SharedAddress(&to.log2_decay[row]),
          args.log2_decay.data + from * args.log2_decay.stride + place.head,
          here);
    } else if (Form::kDelta) {
      CopyAsync<4>(SharedAddress(&to.beta[row]),
                   args.beta.data + from * args.beta.stride + place.head,
                   here);
    }
  }
  CommitCopies();
}

// Sums of log2 decays; lane l has those up to tokens 2 l and 2 l + 1.
__device__ inline float2 SumDecays(const float* log2_decay) {
  constexpr unsigned kAll = 0xffffffffU;
  // Less than 2^-200 is 0 to every state; and infinities have no differences.
  constexpr float kLeast = -200.0F;
  const int lane = static_cast<int>(threadIdx.x) & 31;
  float2 x = *reinterpret_cast<const float2*>(log2_decay + 2 * lane);
  if (x.x < kLeast) x.x = kLeast;
  if (x.y < kLeast) x.y = kLeast;
  const float pair = x.x + x.y;
  float sum = pair;
#pragma unroll
  for (int step = 1; step < 32; step *= 2) {
    const float before = __shfl_up_sync(kAll, sum, step);
    if (lane >= step) sum += before;
  }
  return {sum - x.y, sum};
}

__device__ inline void WriteScales(float2 sums,
                                   const float* beta,
                                   bool delta,
                                   ChunkScales& scales) {
  const int lane = static_cast<int>(threadIdx.x) & 31;
  const float last = __shfl_sync(0xffffffffU, sums.y, 31);
#pragma unroll
  for (int i = 0; i < 2; ++i) {
    const float sum = i == 0 ? sums.x : sums.y;
    const int token = 2 * lane + i;
    const float from_start = exp2f(sum);
    scales.from_start[token] = from_start;
    scales.to_end[token] = exp2f(last - sum);
    if (delta) {
      scales.beta[token] = beta[token];
      scales.beta_from_start[token] = beta[token] * from_start;
    }
  }
}

// Writes the scores and, of the delta rule, L: both from products of a chunk's
// tokens that the warp has 16 rows of.
template <bool kDelta>
__device__ inline void WriteScores(const float (&keys)[32],
                                   const float (&queries)[32],
                                   float2 sums,
                                   const float* beta,
                                   int warp,
                                   ChunkOperands& operands,
                                   LowerMatrix& lower) {
  constexpr unsigned kAll = 0xffffffffU;
  const int lane = static_cast<int>(threadIdx.x) & 31;
  const int row = 16 * warp + lane / 4;  // and row + 8
  const float even = __shfl_sync(kAll, sums.x, row / 2);
  const float odd = __shfl_sync(kAll, sums.y, row / 2);
  const float even_8 = __shfl_sync(kAll, sums.x, row / 2 + 4);
  const float odd_8 = __shfl_sync(kAll, sums.y, row / 2 + 4);
  const float of_row[2] = {row & 1 ? odd : even, row & 1 ? odd_8 : even_8};
  const float betas[2] = {kDelta ? beta[row] : 0.0F,
                          kDelta ? beta[row + 8] : 0.0F};
#pragma unroll
  for (int t = 0; t < 8; ++t) {
    const float first = __shfl_sync(kAll, sums.x, 4 * t + (lane & 3));
    const float second = __shfl_sync(kAll, sums.y, 4 * t + (lane & 3));
    const int column = 8 * t + 2 * (lane & 3);
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const int at = 4 * t + 2 * half;
      const int i = row + 8 * half;
      const float factor = exp2f(of_row[half] - first);
      const float factor_2 = exp2f(of_row[half] - second);
      const uint32_t score =
          Pack(column <= i ? factor * queries[at] : 0.0F,
               column + 1 <= i ? factor_2 * queries[at + 1] : 0.0F);
      *reinterpret_cast<uint32_t*>(operands.scores + NumberOffset(i, column)) =
          score;
      if (!kDelta || t > 2 * warp + 1) continue;
      const float l = column < i ? betas[half] * factor * keys[at] : 0.0F;
      const float l_2 =
          column + 1 < i ? betas[half] * factor_2 * keys[at + 1] : 0.0F;
      if (t >= 2 * warp) {
        *reinterpret_cast<float2*>(
            &lower.diagonal[warp][i & 15][column & 15]) = {l, l_2};
      } else {
        StoreTwice(lower.below, i, column, l, l_2);
      }
    }
  }
}

// Products of every two keys, and of queries with keys, of a chunk's tokens.
template <typename Form>
__device__ inline void MultiplyTokens(const ChunkTokens<Form>& tokens,
                                      float (&keys)[32],
                                      float (&queries)[32]) {
  BeginProducts();
#pragma unroll
  for (int step = 0; step < 4 * Form::kKeyTiles; ++step) {
    const uint64_t k =
        TileOperand(tokens.k[step / 4]) + step % 4 * kColumns16;
    const uint64_t q =
        TileOperand(tokens.q[step / 4]) + step % 4 * kColumns16;
    if (Form::kDelta) MultiplyAddTiles(keys, k, k, step > 0);
    MultiplyAddTiles(queries, q, k, step > 0);
  }
  CommitProducts();
  WaitProducts<0>();
  Pin(keys);
  Pin(queries);
}

template <typename Form>
__device__ inline void PrepareChunks(const ChunkArgs& args,
                                     const ChunkPlace& place,
                                     ChunkShared<Form>& shared) {
  constexpr int kAhead = Form::kStages - 1;
  const int warp = static_cast<int>(threadIdx.x) % kWarpgroup / 32;
  const int chunks = place.chunks();
#pragma unroll
  for (int i = 0; i < kAhead; ++i) CopyTokens(args, place, i, shared);
  for (int chunk = 0; chunk < chunks; ++chunk) {
    const ChunkTokens<Form>& tokens = shared.tokens[chunk % Form::kStages];
    ChunkOperands& operands = shared.operands[chunk & 1];
    WaitCopies<kAhead - 1>();
    ShowToProducts();
    SyncWarpgroup(kPrepareBarrier);
    const float2 sums = SumDecays(tokens.log2_decay);
    if (warp == 0) {
      WriteScales(sums, tokens.beta, Form::kDelta, operands.scales);
    }
    float keys[32];
    float queries[32];
    MultiplyTokens<Form>(tokens, keys, queries);
    WriteScores<Form::kDelta>(
        keys, queries, sums, tokens.beta, warp, operands, shared.lower);
    if (Form::kDelta) {
      InvertLower(shared.lower, warp, kPrepareBarrier, operands.inverse);
    }
    ShowToProducts();
    Arrive(&shared.prepared[chunk & 1]);
    if (chunk > 0) Await(&shared.carried[(chunk - 1) & 1], (chunk - 1) / 2);
    CopyTokens(args, place, chunk + kAhead, shared);
  }
}

}  // namespace weir::engine
