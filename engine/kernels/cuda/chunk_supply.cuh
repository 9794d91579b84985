// SPDX-License-Identifier: Apache-2.0
//
// Where a launch before has made operands: the warpgroups of a chunk kernel
// that bring tokens and operands, take out away, and make fp16 of keys and
// queries.
#pragma once

#include <cuda_bf16.h>

#include "engine/kernels/cuda/chunk_barrier.cuh"
#include "engine/kernels/cuda/chunk_fragment.cuh"
#include "engine/kernels/cuda/chunk_multiply.cuh"
#include "engine/kernels/cuda/chunk_shared.cuh"
#include "engine/kernels/cuda/chunk_transfer.cuh"

namespace weir::engine {

// Makes fp16 of a chunk's keys and queries.
template <int kKeyTiles>
__device__ inline void MakeHalves(KeyTile (&tiles)[kKeyTiles]) {
  const int thread = static_cast<int>(threadIdx.x) % kWarpgroup;
  uint8_t* first = tiles[0].k + PieceOffset(thread >> 3, thread & 7);
#pragma unroll
  for (int tile = 0; tile < 2 * kKeyTiles; ++tile) {
    const float scale = tile % 2 == 0 ? kKeyScale : 1.0F;
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      auto* piece =
          reinterpret_cast<uint4*>(first + i * 16 * 128 + tile * kTileBytes);
      uint4 x = *piece;
      for (uint32_t* pair : {&x.x, &x.y, &x.z, &x.w}) {
        const float2 numbers = Unpack<Number::kBfloat>(*pair);
        *pair = Pack<Number::kHalf>(scale * numbers.x, scale * numbers.y);
      }
      *piece = x;
    }
  }
}

// Writes a chunk of out, which is where its values were; a thread writes the
// pieces that CopyTiles copies for it.
template <typename Form>
__device__ inline void StoreOut(const ChunkArgs& args,
                                const ChunkPlace<Form>& place,
                                int chunk,
                                const ChunkTokens<Form>& from) {
  const int thread = static_cast<int>(threadIdx.x) % kWarpgroup;
  const int count = place.TokensOf(chunk);
  const uint8_t* first = from.v[0] + PieceOffset(thread >> 3, thread & 7);
  __nv_bfloat16* out =
      args.out +
      (place.first_token + int64_t{chunk} * kChunkTokens + (thread >> 3)) *
          args.out_stride +
      place.head * args.value_dim + place.first_value + 8 * (thread & 7);
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    if ((thread >> 3) + 16 * i >= count) continue;
#pragma unroll
    for (int tile = 0; tile < Form::kGroups; ++tile) {
      *reinterpret_cast<uint4*>(out + 16 * i * args.out_stride + 64 * tile) =
          *reinterpret_cast<const uint4*>(first + i * 16 * 128 +
                                          tile * kTileBytes);
    }
  }
}

// With the delta rule: puts the copies of a chunk's operands and tokens under
// way.
template <typename Form>
__device__ inline void CopyChunk(const ChunkArgs& args,
                                 const ChunkPlace<Form>& place,
                                 int chunk,
                                 ChunkShared<Form>& shared) {
  const int thread = static_cast<int>(threadIdx.x) % kWarpgroup;
  using Operands = typename Form::Operands;
  const Operands& from = place.operands[int64_t{chunk} * args.heads];
  Operands& to = shared.operands[chunk % Form::kStages];
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
  if constexpr (Form::kChannel) {
    constexpr int kWords = (sizeof(from.keys) + sizeof(from.writes)) / 16;
#pragma unroll 4
    for (int word = 0; word < kWords; word += kWarpgroup) {
      copy(from.keys, to.keys, word + thread);
    }
  }
  CopyTokens(args, place, chunk, shared);
}

// Likewise all chunks, as many under way as there is room for; and writes out.
template <typename Form>
__device__ inline void CopyChunks(const ChunkArgs& args,
                                  const ChunkPlace<Form>& place,
                                  ChunkShared<Form>& shared) {
  constexpr int kStages = Form::kStages;
  const int chunks = place.chunks();
  const auto copy = [&](int chunk) {
    if (chunk >= chunks) return;
    CopyChunk(args, place, chunk, shared);
    ArriveCopied(&shared.loaded[chunk & 3]);
  };
#pragma unroll
  for (int i = 0; i < kStages; ++i) copy(i);
  for (int chunk = 0; chunk < chunks; ++chunk) {
    const int stage = chunk % kStages;
    Await(&shared.carried[stage], chunk / kStages);
    if (place.has_out) StoreOut(args, place, chunk, shared.tokens[stage]);
    copy(chunk + kStages);
  }
}

// By another warpgroup: makes what products need of what was copied. Here no
// copies are under way, for which the fence would wait.
template <typename Form>
__device__ inline void PrepareHalves(const ChunkPlace<Form>& place,
                                     ChunkShared<Form>& shared) {
  const int chunks = place.chunks();
  for (int chunk = 0; chunk < chunks; ++chunk) {
    const int stage = chunk % Form::kStages;
    Await(&shared.loaded[chunk & 3], chunk / 4);
    if constexpr (!Form::kChannel) MakeHalves(shared.tokens[stage].keys);
    ShowToProducts();
    Arrive(&shared.prepared[stage]);
  }
}

}  // namespace weir::engine
