// SPDX-License-Identifier: Apache-2.0
//
// Copies of a chunk's tokens from device to shared memory.
#pragma once

#include <cuda_bf16.h>

#include "engine/kernels/cuda/chunk_barrier.cuh"
#include "engine/kernels/cuda/chunk_shared.cuh"
#include "engine/kernels/cuda/chunk_tile.cuh"

namespace weir::engine {

// Copies columns [0, 64 kTiles) of a chunk's tokens to tiles, kApart bytes
// apart; tokens from `count` on are zero.
template <int kTiles, int kApart>
__device__ inline void CopyTiles(const BfloatRows& rows,
                                 int64_t token,
                                 int32_t column,
                                 int count,
                                 uint8_t* tiles) {
  const int thread = static_cast<int>(threadIdx.x) % kWarpgroup;
  const int piece = thread & 7;
  const uint32_t to = SharedAddress(tiles) + PieceOffset(thread >> 3, piece);
  const __nv_bfloat16* first =
      rows.data + token * rows.stride + column + 8 * piece;
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    const int row = (thread >> 3) + 16 * i;
    const bool here = row < count;
    const __nv_bfloat16* from = here ? first + row * rows.stride : first;
#pragma unroll
    for (int tile = 0; tile < kTiles; ++tile) {
      CopyAsync<16>(to + i * 16 * 128 + tile * kApart, from + 64 * tile, here);
    }
  }
}

template <int kKeyTiles>
__device__ inline void CopyKeys(const ChunkArgs& args,
                                int64_t token,
                                int32_t key,
                                int count,
                                KeyTile (&to)[kKeyTiles]) {
  constexpr int kApart = sizeof(KeyTile);
  CopyTiles<kKeyTiles, kApart>(args.k, token, key, count, to[0].k);
  CopyTiles<kKeyTiles, kApart>(args.q, token, key, count, to[0].q);
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
                                  const ChunkPlace<Form>& place,
                                  int chunk,
                                  ChunkShared<Form>& shared) {
  if (chunk < place.chunks()) {
    ChunkTokens<Form>& to = shared.tokens[chunk % Form::kStages];
    const int64_t token = place.first_token + int64_t{chunk} * kChunkTokens;
    const int count = place.TokensOf(chunk);
    [[maybe_unused]] const int key = place.key_head * Form::kKeyTiles * 64;
    if constexpr (!Form::kChannel) {
      CopyKeys<Form::kKeyTiles>(args, token, key, count, to.keys);
    }
    CopyTiles<Form::kGroups, kTileBytes>(
        args.v,
        token,
        place.head * args.value_dim +
            (place.has_values ? place.first_value : 0),
        place.has_values ? count : 0,
        to.v[0]);
    if constexpr (!Form::kDelta) {
      CopyGates(args.log2_decay, token, place.head, count, to.log2_decay);
    }
  }
}

}  // namespace weir::engine
