// SPDX-License-Identifier: Apache-2.0
//
// A warpgroup's way through the chunks of a row, whatever the correction.
//
// Threads: all of a warpgroup call each function together.
#pragma once

#include <cuda_bf16.h>

#include <type_traits>

#include "engine/kernels/cuda/chunk_carry.cuh"
#include "engine/kernels/cuda/chunk_delta.cuh"
#include "engine/kernels/cuda/chunk_place.cuh"
#include "engine/kernels/cuda/chunk_shared.cuh"

namespace weir::engine {

template <typename Form>
using CarriedState =
    std::conditional_t<Form::kDelta, DeltaState<Form>, PlainState<Form>>;

template <typename Form>
__device__ inline void BeginState(const StatePlace& state,
                                  CarriedState<Form>& carried) {
  if (Form::kDelta && state.first_unit >= 0) {
    carried.LoadUnits(state.first_unit);
  } else {
    carried.Load(state.from);
  }
}

// Of the delta rule's chunks the values become out; the others' out is written.
template <typename Form>
__device__ inline void StepChunk(const ChunkArgs& args,
                                 const ChunkPlace<Form>& place,
                                 int chunk,
                                 ChunkTokens<Form>& tokens,
                                 const typename Form::Operands& operands,
                                 CarriedState<Form>& carried) {
  if constexpr (Form::kDelta) {
    carried.Step(chunk, tokens, operands, place.out_scale);
  } else {
    __nv_bfloat16* out = args.out + place.first_token * args.out_stride +
                         place.head * args.value_dim + place.first_value;
    carried.Step(tokens,
                 operands,
                 place.TokensOf(chunk),
                 out + int64_t{chunk} * kChunkTokens * args.out_stride,
                 args.out_stride);
  }
}

}  // namespace weir::engine
