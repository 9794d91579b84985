// SPDX-License-Identifier: Apache-2.0
//
// Without the delta rule: the warpgroups of a chunk kernel that copy tokens and
// make scores (chunk_shared.cuh).
#pragma once

#include <cuda_bf16.h>

#include "engine/kernels/cuda/chunk_barrier.cuh"
#include "engine/kernels/cuda/chunk_scores.cuh"
#include "engine/kernels/cuda/chunk_shared.cuh"
#include "engine/kernels/cuda/chunk_transfer.cuh"

namespace weir::engine {

// Makes a chunk's scores and scales, whose tokens are there.
template <typename Form>
__device__ inline void MakeScores(const ChunkTokens<Form>& tokens,
                                  int warp,
                                  ChunkOperands<false>& operands) {
  const float2 sums = SumDecays(tokens.log2_decay);
  WriteScales(sums, nullptr, warp, operands.scales);
  float products[32] = {};
  BeginProducts();
  MultiplyTokens(tokens.keys, &KeyTile::q, products);
  CommitProducts();
  WaitProducts<0>();
  Pin(products);
  WriteScores<Number::kBfloat>(products, sums, warp, 1.0F, operands.scores[0]);
}

// The copies of all chunks, as many under way as there
// is room for, or their operands, or both by one warpgroup.
template <typename Form, bool kCopies, bool kScores>
__device__ inline void PrepareChunks(const ChunkArgs& args,
                                     const ChunkPlace<Form>& place,
                                     ChunkShared<Form>& shared) {
  constexpr int kAhead = Form::kStages - 1;
  const int warp = __shfl_sync(0xffffffffU, threadIdx.x % kWarpgroup / 32, 0);
  const int chunks = place.chunks();
  const auto tell = [&](int chunk) {
    ShowToProducts();
    Arrive(&shared.loaded[chunk & 3]);
  };
  if constexpr (kCopies) {
#pragma unroll
    for (int i = 0; i < kAhead; ++i) {
      CopyTokens(args, place, i, shared);
      CommitCopies();
    }
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
      CommitCopies();
      if (kAhead == 1) {
        WaitCopies<0>();
        tell(chunk + 1);
      }
    }
  }
}

}  // namespace weir::engine
