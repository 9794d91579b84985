// SPDX-License-Identifier: Apache-2.0
//
// Tiles of a chunk's numbers in shared memory: 64 rows of 128 bytes, 1024-byte
// aligned; the 16-byte pieces of a row are permuted by the row (the "128-byte
// swizzle"), so that neither rows nor columns of pieces share banks.
//
// Threads: plain functions.
#pragma once

#include <cstdint>

namespace weir::engine {

inline constexpr int kTileBytes = 64 * 128;
inline constexpr int kWarpgroup = 128;  // threads

// What operands of products are: the one has fp32's range and 8 bits, the other
// 11 bits of what lies between 2^-14 and 65,504, and below that 2^-24.
enum class Number { kBfloat, kHalf };

// A thread's place in its warp. Read anew at each call: addresses made of it
// are then made anew for each chunk, where the compiler would else make all of
// them before the first one, for want of registers in local memory.
__device__ inline int Lane() {
  int lane;
  asm volatile("mov.u32 %0, %%laneid;\n" : "=r"(lane));
  return lane;
}

__device__ inline uint32_t SharedAddress(const void* p) {
  return static_cast<uint32_t>(__cvta_generic_to_shared(p));
}

// Bytes from a tile's start to a piece (0..7) of a row.
__device__ inline uint32_t PieceOffset(int row, int piece) {
  return static_cast<uint32_t>(row * 128 + ((piece ^ (row & 7)) << 4));
}
// Likewise to a bf16 of a row.
__device__ inline uint32_t NumberOffset(int row, int column) {
  return PieceOffset(row, column >> 3) + (column & 7) * 2;
}

}  // namespace weir::engine
