// SPDX-License-Identifier: Apache-2.0
//
// Products of a warpgroup with 128 and 256 columns: a left operand that comes
// from registers takes about as long as 64 columns of sums.
//
// Threads: all of a warpgroup call each function together.
#pragma once

#include <cstdint>

#include "engine/kernels/cuda/chunk_wgmma.cuh"

namespace weir::engine {

// A tile as TileOperand, of which more follow beside it, each `apart` bytes
// after the one before: further columns where it is read by its rows. Read by
// its columns, what lies behind it in memory is further columns.
__device__ inline uint64_t TilesOperand(const void* tile, uint64_t apart) {
  constexpr uint64_t kForm = uint64_t{1} << 62 | uint64_t{64} << 32;
  return kForm | (apart >> 4) << 16 | (SharedAddress(tile) & 0x3ffff) >> 4;
}

#define WEIR_SUMS_32(d)                                                   \
  "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3]), "+f"(d[4]), "+f"(d[5]), \
      "+f"(d[6]), "+f"(d[7]), "+f"(d[8]), "+f"(d[9]), "+f"(d[10]),        \
      "+f"(d[11]), "+f"(d[12]), "+f"(d[13]), "+f"(d[14]), "+f"(d[15]),    \
      "+f"(d[16]), "+f"(d[17]), "+f"(d[18]), "+f"(d[19]), "+f"(d[20]),    \
      "+f"(d[21]), "+f"(d[22]), "+f"(d[23]), "+f"(d[24]), "+f"(d[25]),    \
      "+f"(d[26]), "+f"(d[27]), "+f"(d[28]), "+f"(d[29]), "+f"(d[30]),    \
      "+f"(d[31])

// d += a b as MultiplyAdd, d[i] being the columns from 64 i on.
template <Number kNumber, bool kByRows>
__device__ inline void MultiplyAdd(float (&d)[2][32],
                                   const uint32_t (&a)[4],
                                   uint64_t b,
                                   bool add) {
#define WEIR_PRODUCT(type)                                         \
  asm volatile(                                                    \
      "{\n.reg .pred p;\nsetp.ne.b32 p, %69, 0;\n"                 \
      "wgmma.mma_async.sync.aligned.m64n128k16.f32." type "." type \
      " {"                                                         \
      "%0, %1, %2, %3, %4, %5, %6, %7, "                           \
      "%8, %9, %10, %11, %12, %13, %14, %15, "                     \
      "%16, %17, %18, %19, %20, %21, %22, %23, "                   \
      "%24, %25, %26, %27, %28, %29, %30, %31, "                   \
      "%32, %33, %34, %35, %36, %37, %38, %39, "                   \
      "%40, %41, %42, %43, %44, %45, %46, %47, "                   \
      "%48, %49, %50, %51, %52, %53, %54, %55, "                   \
      "%56, %57, %58, %59, %60, %61, %62, %63}, "                  \
      "{%64, %65, %66, %67}, %68, p, 1, 1, %70;\n}\n"              \
      : WEIR_SUMS_32(d[0]), WEIR_SUMS_32(d[1])                     \
      : "r"(a[0]),                                                 \
        "r"(a[1]),                                                 \
        "r"(a[2]),                                                 \
        "r"(a[3]),                                                 \
        "l"(b),                                                    \
        "r"(static_cast<int>(add)),                                \
        "n"(kByRows ? 1 : 0))
  if constexpr (kNumber == Number::kHalf) {
    WEIR_PRODUCT("f16");
  } else {
    WEIR_PRODUCT("bf16");
  }
#undef WEIR_PRODUCT
}
template <Number kNumber, bool kByRows>
__device__ inline void MultiplyAdd(float (&d)[4][32],
                                   const uint32_t (&a)[4],
                                   uint64_t b,
                                   bool add) {
#define WEIR_PRODUCT(type)                                         \
  asm volatile(                                                    \
      "{\n.reg .pred p;\nsetp.ne.b32 p, %133, 0;\n"                \
      "wgmma.mma_async.sync.aligned.m64n256k16.f32." type "." type \
      " {"                                                         \
      "%0, %1, %2, %3, %4, %5, %6, %7, "                           \
      "%8, %9, %10, %11, %12, %13, %14, %15, "                     \
      "%16, %17, %18, %19, %20, %21, %22, %23, "                   \
      "%24, %25, %26, %27, %28, %29, %30, %31, "                   \
      "%32, %33, %34, %35, %36, %37, %38, %39, "                   \
      "%40, %41, %42, %43, %44, %45, %46, %47, "                   \
      "%48, %49, %50, %51, %52, %53, %54, %55, "                   \
      "%56, %57, %58, %59, %60, %61, %62, %63, "                   \
      "%64, %65, %66, %67, %68, %69, %70, %71, "                   \
      "%72, %73, %74, %75, %76, %77, %78, %79, "                   \
      "%80, %81, %82, %83, %84, %85, %86, %87, "                   \
      "%88, %89, %90, %91, %92, %93, %94, %95, "                   \
      "%96, %97, %98, %99, %100, %101, %102, %103, "               \
      "%104, %105, %106, %107, %108, %109, %110, %111, "           \
      "%112, %113, %114, %115, %116, %117, %118, %119, "           \
      "%120, %121, %122, %123, %124, %125, %126, %127}, "          \
      "{%128, %129, %130, %131}, %132, p, 1, 1, %134;\n}\n"        \
      : WEIR_SUMS_32(d[0]),                                        \
        WEIR_SUMS_32(d[1]),                                        \
        WEIR_SUMS_32(d[2]),                                        \
        WEIR_SUMS_32(d[3])                                         \
      : "r"(a[0]),                                                 \
        "r"(a[1]),                                                 \
        "r"(a[2]),                                                 \
        "r"(a[3]),                                                 \
        "l"(b),                                                    \
        "r"(static_cast<int>(add)),                                \
        "n"(kByRows ? 1 : 0))
  if constexpr (kNumber == Number::kHalf) {
    WEIR_PRODUCT("f16");
  } else {
    WEIR_PRODUCT("bf16");
  }
#undef WEIR_PRODUCT
}
template <Number kNumber, bool kByRows>
__device__ inline void MultiplyAdd(float (&d)[1][32],
                                   const uint32_t (&a)[4],
                                   uint64_t b,
                                   bool add) {
  MultiplyAdd<kNumber, kByRows>(d[0], a, b, add);
}
#undef WEIR_SUMS_32

template <int kTiles>
__device__ inline void Pin(float (&d)[kTiles][32]) {
#pragma unroll
  for (int tile = 0; tile < kTiles; ++tile) Pin(d[tile]);
}

}  // namespace weir::engine
