// SPDX-License-Identifier: Apache-2.0
//
// Copies of a chunk's tokens and operands from device to shared memory.
#pragma once

#include <cuda_bf16.h>

#include "engine/kernels/cuda/chunk_barrier.cuh"
#include "engine/kernels/cuda/chunk_fragment.cuh"
#include "engine/kernels/cuda/chunk_shared.cuh"
#include "engine/kernels/cuda/chunk_wgmma.cuh"

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
  const __nv_bfloat16* first =
      rows.data + token * rows.stride + column + 8 * piece;
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

// Makes fp16 of the bf16 that CopyTiles has copied there for this thread.
template <int kTiles>
__device__ inline void MakeHalves(float scale, uint8_t (*tiles)[kTileBytes]) {
  const int thread = static_cast<int>(threadIdx.x) % kWarpgroup;
  uint8_t* at = tiles[0] + PieceOffset(thread >> 3, thread & 7);
#pragma unroll
  for (int i = 0; i < 4; ++i) {
#pragma unroll
    for (int tile = 0; tile < kTiles; ++tile) {
      auto* piece =
          reinterpret_cast<uint4*>(at + i * 16 * 128 + tile * kTileBytes);
      uint4 x = *piece;
      for (uint32_t* pair : {&x.x, &x.y, &x.z, &x.w}) {
        const float2 numbers = Unpack<Number::kBfloat>(*pair);
        *pair = Pack<Number::kHalf>(scale * numbers.x, scale * numbers.y);
      }
      *piece = x;
    }
  }
}

// With the delta rule: puts the copies of a chunk's operands and tokens under
// way, or none beyond the last chunk.
template <typename Form>
__device__ inline void CopyChunk(const ChunkArgs& args,
                                 const ChunkPlace& place,
                                 const ChunkOperands<true>* operands,
                                 int chunk,
                                 ChunkShared<Form>& shared) {
  const int thread = static_cast<int>(threadIdx.x) % kWarpgroup;
  if (chunk < place.chunks()) {
    const ChunkOperands<true>& from = operands[int64_t{chunk} * args.heads];
    ChunkOperands<true>& to = shared.operands[chunk % Form::kStages];
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
  }
  CopyTokens(args, place, chunk, shared);
}

// Likewise all chunks, as many under way as there is room for.
template <typename Form>
__device__ inline void CopyChunks(const ChunkArgs& args,
                                  const ChunkPlace& place,
                                  const ChunkOperands<true>* operands,
                                  ChunkShared<Form>& shared) {
  constexpr int kAhead = Form::kStages - 1;
  const int chunks = place.chunks();
#pragma unroll
  for (int i = 0; i < kAhead; ++i) {
    CopyChunk(args, place, operands, i, shared);
  }
  for (int chunk = 0; chunk < chunks; ++chunk) {
    WaitCopies<kAhead - 1>();
    ChunkTokens<Form>& tokens = shared.tokens[chunk % Form::kStages];
    MakeHalves<Form::kKeyTiles>(kKeyScale, tokens.k);
    MakeHalves<Form::kKeyTiles>(1.0F, tokens.q);
    ShowToProducts();
    Arrive(&shared.prepared[chunk % Form::kStages]);
    if (chunk > 0) {
      Await(&shared.carried[(chunk - 1) % Form::kStages],
            (chunk - 1) / Form::kStages);
    }
    CopyChunk(args, place, operands, chunk + kAhead, shared);
  }
}

}  // namespace weir::engine
