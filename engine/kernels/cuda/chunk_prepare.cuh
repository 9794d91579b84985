// SPDX-License-Identifier: Apache-2.0
//
// The warpgroups of a chunk kernel that copy and prepare (chunk_shared.cuh).
#pragma once

#include <cuda_bf16.h>

#include "engine/kernels/cuda/chunk_fragment.cuh"
#include "engine/kernels/cuda/chunk_shared.cuh"

namespace weir::engine {

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
  const __nv_bfloat16* first = rows.data + token * rows.stride + column +
                               8 * piece;
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    const int row = (thread >> 3) + 16 * i;
    const bool here = row < count;
    const __nv_bfloat16* from = here ? first + row * rows.stride : first;
#pragma unroll
    for (int tile = 0; tile < kTiles; ++tile) {
      CopyAsync<16>(
          to + i * 16 * 128 + tile * kTileBytes, from + 64 * tile, here);
    }
  }
}

// Likewise a head's number of each token.
__device__ inline void CopyGates(const TokenRows& rows,
                                 int64_t token,
                                 int32_t head,
                                 int count,
                                 float* gates) {
  const int row = static_cast<int>(threadIdx.x) % kWarpgroup;
  if (row >= kChunkTokens) return;
  const bool here = row < count;
  CopyAsync<4>(SharedAddress(&gates[row]),
               rows.data + (token + (here ? row : 0)) * rows.stride + head,
               here);
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
    if constexpr (!Form::kDelta) {
      CopyGates(args.log2_decay, token, place.head, count, to.log2_decay);
    }
  }
  CommitCopies();
}

// Sums of log2 decays; lane l has those up to tokens 2 l and 2 l + 1.
__device__ inline float2 SumDecays(const float* log2_decay) {
  constexpr unsigned kAll = 0xffffffffU;
  // Less than 2^-200 is 0 to every state; and infinities have no differences.
  constexpr float kLeast = -200.0F;
  const int lane = Lane();
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

// A warp writes one of the scales; those with beta if there is one.
__device__ inline void WriteScales(float2 sums,
                                   const float* beta,
                                   int warp,
                                   ChunkScales& scales) {
  const int token = 2 * Lane();
  const float last = __shfl_sync(0xffffffffU, sums.y, 31);
  const auto write = [&](float* to, float first, float second) {
    *reinterpret_cast<float2*>(to + token) = float2{first, second};
  };
  if (warp == 0) write(scales.from_start, Exp2(sums.x), Exp2(sums.y));
  if (warp == 1) write(scales.to_end, Exp2(last - sums.x), Exp2(last - sums.y));
  if (beta == nullptr || warp < 2) return;
  const float2 x = *reinterpret_cast<const float2*>(beta + token);
  if (warp == 2) write(scales.beta, x.x, x.y);
  if (warp == 3) {
    write(scales.beta_from_start, x.x * Exp2(sums.x), x.y * Exp2(sums.y));
  }
}

// Calls visit(n, i, j, factor, factor_2) for the pairs of numbers of a 16 by 16
// block of sums (chunk_fragment.cuh) in the warp's block row: numbers n and
// n + 1, of row i and columns j, j + 1, with factors 2^(g_i - g_j), which are of
// use where j <= i.
template <typename Visit>
__device__ inline void VisitBlock(float2 sums,
                                  int warp,
                                  int block,
                                  Visit visit) {
  constexpr unsigned kAll = 0xffffffffU;
  const int lane = Lane();
  const int row = 16 * warp + lane / 4;  // and row + 8
  float of_row[2];
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    const float even = __shfl_sync(kAll, sums.x, row / 2 + 4 * half);
    const float odd = __shfl_sync(kAll, sums.y, row / 2 + 4 * half);
    of_row[half] = row & 1 ? odd : even;
  }
#pragma unroll
  for (int right = 0; right < 2; ++right) {
    const int column = 16 * block + 8 * right + 2 * (lane & 3);
    const float first = __shfl_sync(kAll, sums.x, column / 2);
    const float second = __shfl_sync(kAll, sums.y, column / 2);
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      visit(4 * right + 2 * half,
            row + 8 * half,
            column,
            Exp2(of_row[half] - first),
            Exp2(of_row[half] - second));
    }
  }
}

// Puts the products of every two rows of a chunk's tiles, queries or keys, with
// keys under way.
template <int kKeyTiles>
__device__ inline void MultiplyTokens(const uint8_t (*rows)[kTileBytes],
                                      const uint8_t (*keys)[kTileBytes],
                                      float (&sums)[32]) {
#pragma unroll
  for (int step = 0; step < 4 * kKeyTiles; ++step) {
    MultiplyAddTiles(sums,
                     TileOperand(rows[step / 4]) + step % 4 * kColumns16,
                     TileOperand(keys[step / 4]) + step % 4 * kColumns16,
                     step > 0);
  }
}

// Writes the scores of the warp's block row, from its products.
__device__ inline void WriteScores(const float (&products)[32],
                                   float2 sums,
                                   int warp,
                                   uint8_t* scores) {
#pragma unroll
  for (int block = 0; block < 4; ++block) {
    if (block > warp) continue;
    const float* p = products + 8 * block;
    VisitBlock(sums, warp, block, [&](int n, int i, int j, float f, float f_2) {
      *reinterpret_cast<uint32_t*>(scores + NumberOffset(i, j)) =
          Pack(j <= i ? f * p[n] : 0.0F, j + 1 <= i ? f_2 * p[n + 1] : 0.0F);
    });
  }
}

// Makes a chunk's scores and scales, whose tokens are there.
template <typename Form>
__device__ inline void MakeScores(const ChunkTokens<Form>& tokens,
                                  int warp,
                                  ChunkOperands<false>& operands) {
  const float2 sums = SumDecays(tokens.log2_decay);
  WriteScales(sums, nullptr, warp, operands.scales);
  float products[32] = {};
  BeginProducts();
  MultiplyTokens<Form::kKeyTiles>(tokens.q, tokens.k, products);
  CommitProducts();
  WaitProducts<0>();
  Pin(products);
  WriteScores(products, sums, warp, operands.scores[0]);
}

// Without the delta rule: the copies of all chunks, as many under way as there
// is room for, or their operands, or both by one warpgroup.
template <typename Form, bool kCopies, bool kScores>
__device__ inline void PrepareChunks(const ChunkArgs& args,
                                     const ChunkPlace& place,
                                     ChunkShared<Form>& shared) {
  constexpr int kAhead = Form::kStages - 1;
  const int warp =
      __shfl_sync(0xffffffffU, threadIdx.x % kWarpgroup / 32, 0);
  const int chunks = place.chunks();
  const auto tell = [&](int chunk) {
    ShowToProducts();
    Arrive(&shared.loaded[chunk & 3]);
  };
  if constexpr (kCopies) {
#pragma unroll
    for (int i = 0; i < kAhead; ++i) CopyTokens(args, place, i, shared);
    WaitCopies<kAhead - 1>();
    tell(0);
  }
  for (int chunk = 0; chunk < chunks; ++chunk) {
    if constexpr (kScores) {
      Await(&shared.loaded[chunk & 3], chunk / 4);
      if (!kCopies && chunk > 1) {
        Await(&shared.carried[chunk & 1], chunk / 2 - 1);
      }
      MakeScores(shared.tokens[chunk % Form::kStages],
                 warp,
                 shared.operands[chunk & 1]);
      ShowToProducts();
      Arrive(&shared.prepared[chunk & 1]);
    }
    if constexpr (kCopies) {
      if (kAhead > 1) {
        WaitCopies<0>();
        tell(chunk + 1);
      }
      if (chunk > 0) Await(&shared.carried[(chunk - 1) & 1], (chunk - 1) / 2);
      CopyTokens(args, place, chunk + kAhead, shared);
      if (kAhead == 1) {
        WaitCopies<0>();
        tell(chunk + 1);
      }
    }
  }
}

// With the delta rule: the copies of all chunks and of their operands.
template <typename Form>
__device__ inline void CopyChunks(const ChunkArgs& args,
                                  const ChunkPlace& place,
                                  const ChunkOperands<true>* operands,
                                  ChunkShared<Form>& shared) {
  constexpr int kStages = Form::kStages;
  const int thread = static_cast<int>(threadIdx.x) % kWarpgroup;
  const int chunks = place.chunks();
  for (int chunk = 0; chunk < chunks; ++chunk) {
    const int stage = chunk % kStages;
    if (chunk >= kStages) Await(&shared.carried[stage], chunk / kStages - 1);
    const ChunkOperands<true>& from = operands[int64_t{chunk} * args.heads];
    ChunkOperands<true>& to = shared.operands[stage];
    const auto copy = [&](const void* source, void* target, int word) {
      CopyAsync<16>(SharedAddress(target) + 16 * word,
                    static_cast<const uint4*>(source) + word,
                    true);
    };
    if (thread < static_cast<int>(sizeof(from.scales) / 16)) {
      copy(&from.scales, &to.scales, thread);
    }
    VisitLowerWords([&](int word) {
      copy(from.scores, to.scores, word);
      copy(from.inverse[0], to.inverse[0], word);
      copy(from.inverse[1], to.inverse[1], word);
    });
    CopyTokens(args, place, chunk, shared);
    WaitCopies<0>();
    ShowToProducts();
    Arrive(&shared.prepared[stage]);
  }
}

}  // namespace weir::engine
