// SPDX-License-Identifier: Apache-2.0
//
// Which tokens and values a block of the chunk form has, where its state comes
// from and where it goes.
//
// Threads: plain functions.
#pragma once

#include <cstdint>

#include "engine/kernels/cuda/chunk_segment.cuh"
#include "engine/kernels/cuda/chunk_shared.cuh"
#include "engine/kernels/cuda/chunk_state.cuh"

namespace weir::engine {

// Where a block's state comes from and where it goes: from nowhere it is zero,
// or the unit vectors.
struct StatePlace {
  StateMemory from;
  StateMemory to;
  int32_t first_unit = -1;
};

// A session's state at rest, from the block's first value on.
__device__ inline StateMemory RestOf(const ChunkArgs& args,
                                     int32_t row,
                                     int64_t head_row) {
  const bool is_bfloat = args.state_number == StateNumber::kBfloat16;
  const int32_t slot = args.slots[row];
  const int64_t first = head_row * args.key_dim;
  const int64_t at = slot * args.state_stride + first;
  const uint32_t consumed = args.consumed == nullptr ? 0 : args.consumed[row];
  const RoundingKey key = {RoundingSeed(args.rounding_seed, consumed)};
  return {static_cast<uint8_t*>(args.state) + at * (is_bfloat ? 2 : 4),
          is_bfloat,
          key.From(static_cast<uint32_t>(first))};
}

// What this block has, which is blockIdx (values, head, row or place): false if
// there is nothing to do.
template <typename Form>
__device__ inline bool FindPlace(const ChunkLaunch& launch,
                                 ChunkPlace<Form>& place,
                                 StatePlace& state) {
  const ChunkArgs& args = launch.args;
  SegmentPlace at;
  if (!FindSegment(launch, static_cast<int32_t>(blockIdx.z), at)) return false;
  const int32_t slot = args.slots[at.row];
  const int32_t first = args.row_starts[at.row];
  const int32_t tokens = args.row_starts[at.row + 1] - first;
  if (slot < 0 || tokens == 0) return false;
  constexpr int kValues = Form::kGroups * 64;
  const int32_t blocks = args.value_dim / kValues;
  const auto block = static_cast<int32_t>(blockIdx.x);
  place.has_values = block < blocks;
  place.has_out = !at.joined;
  if (!place.has_values && !at.joined) return false;
  const ChunkSpan span = at.Span(tokens);
  place.first_token = first + int64_t{span.first} * kChunkTokens;
  place.tokens =
      min(tokens, span.end * kChunkTokens) - span.first * kChunkTokens;
  place.head = static_cast<int32_t>(blockIdx.y);
  place.key_head = place.head / (args.heads / args.key_heads);
  place.first_value = (place.has_values ? block : block - blocks) * kValues;
  place.out_scale = Form::kChannel ? 1.0F / ScaleOf(args).query : 1.0F;
  place.operands =
      static_cast<const typename Form::Operands*>(args.workspace) +
      (FirstChunk(args.row_starts, at.row) + span.first) * args.heads +
      place.head;

  const int64_t head_row =
      int64_t{place.head} * args.value_dim + place.first_value;
  const StateMemory own = RestOf(args, at.row, head_row);
  const auto start = [&](int32_t segment) {
    return StateMemory{
        launch.plan.starts +
        ((at.place + segment) * args.heads * args.value_dim + head_row) *
            args.key_dim};
  };
  if (!place.has_values) {
    state.first_unit = place.first_value;
    state.to.numbers = launch.plan.transfers +
                       ((at.place + at.segment) * args.heads + place.head) *
                           args.key_dim * args.key_dim +
                       int64_t{place.first_value} * args.key_dim;
    return true;
  }
  const bool fresh = args.consumed != nullptr && args.consumed[at.row] == 0;
  if (at.segment == 0) {
    if (!fresh) state.from = own;
  } else if (!at.joined) {
    state.from = start(at.segment);
  }
  if (at.is_last()) {
    state.to = own;
  } else if (at.joined || at.segment == 0) {
    state.to = start(at.segment + 1);
  }
  return true;
}

}  // namespace weir::engine
