// SPDX-License-Identifier: Apache-2.0
//
// Products of a warpgroup (wgmma, compute capability 9.0), which the chunk
// kernels are made of; on other cards chunk_mma.cuh.
//
// Threads: all of a warpgroup call each function together.
#pragma once

#include <cstdint>

#include "engine/kernels/cuda/chunk_tile.cuh"

namespace weir::engine {

// A tile as wgmma's operand: 8 rows are 1024 bytes, whichever way it is read.
__device__ inline uint64_t TileOperand(const void* tile) {
  constexpr uint64_t kForm =
      uint64_t{1} << 62 | uint64_t{64} << 32 | uint64_t{64} << 16;
  return kForm | (SharedAddress(tile) & 0x3ffff) >> 4;
}
// What moves such an operand on by 16 columns, and by 16 rows.
inline constexpr uint64_t kColumns16 = 2;
inline constexpr uint64_t kRows16 = 128;

#define WEIR_SUMS_32(d)                                                   \
  "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3]), "+f"(d[4]), "+f"(d[5]), \
      "+f"(d[6]), "+f"(d[7]), "+f"(d[8]), "+f"(d[9]), "+f"(d[10]),        \
      "+f"(d[11]), "+f"(d[12]), "+f"(d[13]), "+f"(d[14]), "+f"(d[15]),    \
      "+f"(d[16]), "+f"(d[17]), "+f"(d[18]), "+f"(d[19]), "+f"(d[20]),    \
      "+f"(d[21]), "+f"(d[22]), "+f"(d[23]), "+f"(d[24]), "+f"(d[25]),    \
      "+f"(d[26]), "+f"(d[27]), "+f"(d[28]), "+f"(d[29]), "+f"(d[30]),    \
      "+f"(d[31])

#define WEIR_PRODUCT_64(type)                                 \
  "wgmma.mma_async.sync.aligned.m64n64k16.f32." type "." type \
  " {"                                                        \
  "%0, %1, %2, %3, %4, %5, %6, %7, "                          \
  "%8, %9, %10, %11, %12, %13, %14, %15, "                    \
  "%16, %17, %18, %19, %20, %21, %22, %23, "                  \
  "%24, %25, %26, %27, %28, %29, %30, %31}, "

// d += a b over 16 columns of a: [64, 16] in registers, b [16, 64] a tile read
// by its columns, b[i][j] = tile[j][i]; with kByRows b[i][j] = tile[i][j].
// Without `add` d = a b.
template <Number kNumber, bool kByRows>
__device__ inline void MultiplyAdd(float (&d)[32],
                                   const uint32_t (&a)[4],
                                   uint64_t b,
                                   bool add) {
#define WEIR_PRODUCT(type)                                                   \
  asm volatile("{\n.reg .pred p;\nsetp.ne.b32 p, %37, 0;\n" WEIR_PRODUCT_64( \
                   type) "{%32, %33, %34, %35}, %36, p, 1, 1, %38;\n}\n"     \
               : WEIR_SUMS_32(d)                                             \
               : "r"(a[0]),                                                  \
                 "r"(a[1]),                                                  \
                 "r"(a[2]),                                                  \
                 "r"(a[3]),                                                  \
                 "l"(b),                                                     \
                 "r"(static_cast<int>(add)),                                 \
                 "n"(kByRows ? 1 : 0))
  if constexpr (kNumber == Number::kHalf) {
    WEIR_PRODUCT("f16");
  } else {
    WEIR_PRODUCT("bf16");
  }
#undef WEIR_PRODUCT
}

// The same with a [64, 16] from a tile; b[i][j] = tile[j][i].
template <Number kNumber>
__device__ inline void MultiplyAddTiles(float (&d)[32],
                                        uint64_t a,
                                        uint64_t b,
                                        bool add) {
#define WEIR_PRODUCT(type)                                                   \
  asm volatile("{\n.reg .pred p;\nsetp.ne.b32 p, %34, 0;\n" WEIR_PRODUCT_64( \
                   type) "%32, %33, p, 1, 1, 0, 0;\n}\n"                     \
               : WEIR_SUMS_32(d)                                             \
               : "l"(a), "l"(b), "r"(static_cast<int>(add)))
  if constexpr (kNumber == Number::kHalf) {
    WEIR_PRODUCT("f16");
  } else {
    WEIR_PRODUCT("bf16");
  }
#undef WEIR_PRODUCT
}

// Keeps the compiler from moving uses of d across.
__device__ inline void Pin(float (&d)[32]) {
  asm volatile("" : WEIR_SUMS_32(d) : : "memory");
}
#undef WEIR_SUMS_32
#undef WEIR_PRODUCT_64

__device__ inline void BeginProducts() {
  asm volatile("wgmma.fence.sync.aligned;\n" ::: "memory");
}
__device__ inline void CommitProducts() {
  asm volatile("wgmma.commit_group.sync.aligned;\n" ::: "memory");
}
// Until all but the last kPending commits are done.
template <int kPending>
__device__ inline void WaitProducts() {
  asm volatile("wgmma.wait_group.sync.aligned %0;\n" ::"n"(kPending)
               : "memory");
}

// Lets products, which read shared memory by another way, see this thread's
// writes once the others have been told of them.
__device__ inline void ShowToProducts() {
  asm volatile("fence.proxy.async.shared::cta;\n" ::: "memory");
}

}  // namespace weir::engine
