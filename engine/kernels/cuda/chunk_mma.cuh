// SPDX-License-Identifier: Apache-2.0
//
// The products of chunk_wgmma.cuh and chunk_wide.cuh by each warp for itself
// (mma.sync), for cards without wgmma. They are done when the call returns.
//
// Threads: all of a warpgroup call each function together.
#pragma once

#include <cstdint>

#include "engine/kernels/cuda/chunk_fragment.cuh"
#include "engine/kernels/cuda/chunk_tile.cuh"

namespace weir::engine {

// A tile as a product's operand: its address in 16 bytes, which kColumns16 and
// kRows16 move on. Above it, how many bytes the next tile is apart.
__device__ inline uint64_t TilesOperand(const void* tile, uint64_t apart) {
  return apart << 32 | SharedAddress(tile) >> 4;
}
__device__ inline uint64_t TileOperand(const void* tile) {
  return TilesOperand(tile, 0);
}
inline constexpr uint64_t kColumns16 = 2;
inline constexpr uint64_t kRows16 = 128;

// Bytes to a piece of a row, of the operand's first row and piece on. The row
// that an operand begins with is a multiple of 8, its piece is even.
__device__ inline uint32_t OperandAddress(uint64_t operand,
                                          int row,
                                          int piece) {
  const uint32_t first = static_cast<uint32_t>(operand) << 4;
  const auto at = static_cast<int>(first >> 4 & 7) + piece;
  return (first & ~127U) + PieceOffset(row, at);
}

// Right operands of two products of 8 columns each, columns 16 n on: numbers 0
// and 1 are the first one's.
template <bool kByRows>
__device__ inline void LoadRight(uint64_t b, int n, Fragment& to) {
  const int lane = Lane();
  const int row = lane & 7;
  const int low = lane >> 3 & 1;
  const int high = lane >> 4;
  if constexpr (kByRows) {
    LoadBlocksTransposed(OperandAddress(b, 8 * low + row, 2 * n + high), to);
  } else {
    LoadBlocks(OperandAddress(b, 16 * n + 8 * high + row, low), to);
  }
}

template <Number kNumber>
__device__ inline void MultiplyFragments(float* sums,
                                         const uint32_t (&a)[4],
                                         uint32_t b,
                                         uint32_t b_8_rows_on) {
  if constexpr (kNumber == Number::kHalf) {
    MultiplyHalf(sums, a, b, b_8_rows_on);
  } else {
    MultiplyBfloat(sums, a, b, b_8_rows_on);
  }
}

template <Number kNumber, bool kByRows>
__device__ inline void MultiplyAdd(float (&d)[32],
                                   const uint32_t (&a)[4],
                                   uint64_t b,
                                   bool add) {
#pragma unroll
  for (int i = 0; i < 32; ++i) d[i] = add ? d[i] : 0.0F;
#pragma unroll
  for (int n = 0; n < 4; ++n) {
    Fragment right;
    LoadRight<kByRows>(b, n, right);
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      MultiplyFragments<kNumber>(
          d + 8 * n + 4 * half, a, right[2 * half], right[2 * half + 1]);
    }
  }
}

// d[i] are the columns from 64 i on: what lies behind a tile, or beside it.
template <Number kNumber, bool kByRows, int kTiles>
__device__ inline void MultiplyAdd(float (&d)[kTiles][32],
                                   const uint32_t (&a)[4],
                                   uint64_t b,
                                   bool add) {
  const uint64_t apart = kByRows ? b >> 32 : kTileBytes;
#pragma unroll
  for (int tile = 0; tile < kTiles; ++tile) {
    MultiplyAdd<kNumber, kByRows>(d[tile], a, b + tile * (apart >> 4), add);
  }
}

template <Number kNumber>
__device__ inline void MultiplyAddTiles(float (&d)[32],
                                        uint64_t a,
                                        uint64_t b,
                                        bool add) {
  const int lane = Lane();
  const auto warp = static_cast<int>(threadIdx.x) % kWarpgroup / 32;
  Fragment left;
  LoadBlocks(OperandAddress(a, 16 * warp + (lane & 15), lane >> 4), left);
  MultiplyAdd<kNumber, false>(d, left, b, add);
}

template <typename Sums>
__device__ inline void Pin(Sums& /*d*/) {}
__device__ inline void BeginProducts() {}
__device__ inline void CommitProducts() {}
template <int kPending>
__device__ inline void WaitProducts() {}
__device__ inline void ShowToProducts() {}

}  // namespace weir::engine
