// SPDX-License-Identifier: Apache-2.0
//
// The chunk form on cards without wgmma: a block is one warpgroup, which does
// in turn what the warpgroups of a chunk kernel do beside each other. Other
// blocks of a multiprocessor work while it waits.
#pragma once

#include <cuda_bf16.h>

#include "engine/kernels/cuda/chunk_place.cuh"
#include "engine/kernels/cuda/chunk_prepare.cuh"
#include "engine/kernels/cuda/chunk_shared.cuh"
#include "engine/kernels/cuda/chunk_step.cuh"
#include "engine/kernels/cuda/chunk_supply.cuh"

namespace weir::engine {

// Brings a chunk's tokens, and brings or makes its operands.
template <typename Form>
__device__ inline void SupplyChunk(const ChunkArgs& args,
                                   const ChunkPlace<Form>& place,
                                   int chunk,
                                   ChunkShared<Form>& shared) {
  if constexpr (Form::kDelta) {
    CopyChunk(args, place, chunk, shared);
  } else {
    CopyTokens(args, place, chunk, shared);
  }
  CommitCopies();
  WaitCopies<0>();
  __syncthreads();
  if constexpr (!Form::kDelta) {
    MakeScores(shared.tokens[0],
               static_cast<int>(threadIdx.x) / 32,
               shared.operands[0]);
    __syncthreads();
  } else if constexpr (!Form::kChannel) {
    MakeHalves(shared.tokens[0].keys);
    __syncthreads();
  }
}

template <typename Form>
__device__ inline void CarryAlone(const ChunkArgs& args,
                                  const ChunkPlace<Form>& place,
                                  const StatePlace& state,
                                  ChunkShared<Form>& shared) {
  CarriedState<Form> carried(0);
  BeginState<Form>(state, carried);
  for (int chunk = 0; chunk < place.chunks(); ++chunk) {
    SupplyChunk(args, place, chunk, shared);
    StepChunk<Form>(
        args, place, chunk, shared.tokens[0], shared.operands[0], carried);
    __syncthreads();
    if constexpr (Form::kDelta) {
      if (place.has_out) StoreOut(args, place, chunk, shared.tokens[0]);
    }
  }
  if (state.to.numbers != nullptr) carried.End(state.to);
}

}  // namespace weir::engine
