// SPDX-License-Identifier: Apache-2.0
//
// Products of fp32 numbers on the tensor cores, nearly to fp32's precision:
// each number is taken as two tf32, the second what the first rounded away, and
// the product of the two seconds, 2^-22 of the whole, is left out. Sums over
// more than 16 numbers are made by ordinary additions, since the tensor cores'
// own round toward zero.
//
// A warp's thread is (g, t) = (lane / 4, lane % 4). In what it holds of 16
// columns, it holds columns 4t to 4t + 3: one piece of 16 bytes. The columns'
// order within a product is free as long as both sides have the same.
//
// Threads: all of a warp call each function together.
#pragma once

#include <cstdint>

#include "engine/kernels/cuda/four_numbers.cuh"

namespace weir::engine {

struct SplitNumber {
  uint32_t high;
  uint32_t low;  // of which the tensor cores read the first bits
};

__device__ inline SplitNumber SplitAt(float x, uint32_t bits) {
  SplitNumber split;
  split.high = bits & 0xffffe000U;
  split.low = __float_as_uint(x - __uint_as_float(split.high));
  return split;
}
__device__ inline SplitNumber SplitRounded(float x) {
  return SplitAt(x, __float_as_uint(x) + 0x1000U);
}
__device__ inline SplitNumber SplitCut(float x) {
  return SplitAt(x, __float_as_uint(x));
}

// 16 rows of 8 columns: rows g and g + 8 of two columns, then of two others.
struct LeftTile {
  SplitNumber at[4];

  __device__ static LeftTile Of(float a0, float a1, float a2, float a3) {
    return {{SplitRounded(a0),
             SplitRounded(a1),
             SplitRounded(a2),
             SplitRounded(a3)}};
  }
};

// 8 columns of 8 right rows: right row g.
struct RightTile {
  SplitNumber at[2];

  __device__ static RightTile Of(float b0, float b1) {
    return {{SplitCut(b0), SplitCut(b1)}};
  }
};

__device__ inline void MultiplyTf32(float (&sum)[4],
                                    uint32_t a0,
                                    uint32_t a1,
                                    uint32_t a2,
                                    uint32_t a3,
                                    uint32_t b0,
                                    uint32_t b1) {
  asm("mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32 "
      "{%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
      : "+f"(sum[0]), "+f"(sum[1]), "+f"(sum[2]), "+f"(sum[3])
      : "r"(a0), "r"(a1), "r"(a2), "r"(a3), "r"(b0), "r"(b1));
}

// sums[n] += a b[n]. A sum's numbers: rows g (its first two) and g + 8, of
// right rows 2t and 2t + 1. One product of each sum after another, since a
// product waits long for the one before it of the same sum.
template <int kTiles>
__device__ inline void Multiply(float (&sums)[kTiles][4],
                                const LeftTile& a,
                                const RightTile (&b)[kTiles]) {
  const auto& x = a.at;
#pragma unroll
  for (int n = 0; n < kTiles; ++n) {
    MultiplyTf32(sums[n],
                 x[0].low,
                 x[1].low,
                 x[2].low,
                 x[3].low,
                 b[n].at[0].high,
                 b[n].at[1].high);
  }
#pragma unroll
  for (int n = 0; n < kTiles; ++n) {
    MultiplyTf32(sums[n],
                 x[0].high,
                 x[1].high,
                 x[2].high,
                 x[3].high,
                 b[n].at[0].low,
                 b[n].at[1].low);
  }
#pragma unroll
  for (int n = 0; n < kTiles; ++n) {
    MultiplyTf32(sums[n],
                 x[0].high,
                 x[1].high,
                 x[2].high,
                 x[3].high,
                 b[n].at[0].high,
                 b[n].at[1].high);
  }
}

// The right row of a tile that stands at place g. Of four rows that
// MultiplyTransposed reads at once, two then begin in the other half of the
// banks of shared memory, as do each two neighbours here.
__host__ __device__ constexpr int RightRow(int place) {
  return place ^ (place >> 1 & 1);
}

// sums[n] += a b^T for right rows 8n to 8n + 7, each over kColumns; the place
// of a right row is RightRow's. `right` is this thread's: the first row's,
// column 4t, at RightRow(g) rows beyond. REQUIRES: b_stride is 16 more than a
// multiple of 32. is_zero: a reads as zero.
template <int kColumns, int kTiles, typename Number>
__device__ void MultiplyRows(const Number* a,
                             int a_stride,
                             bool is_zero,
                             const float* b,
                             int b_stride,
                             float (&sums)[kTiles][4]) {
  const int lane = static_cast<int>(threadIdx.x) % 32;
  const Number* left = a + lane / 4 * a_stride + lane % 4 * 4;
  const float* right = b + RightRow(lane / 4) * b_stride + lane % 4 * 4;
  constexpr int kStep = 32;
#pragma unroll 1
  for (int c = 0; c < kColumns; c += kStep) {
    float step[kTiles][4] = {};
#pragma unroll
    for (int half = 0; half < kStep; half += 16) {
      float x[4] = {};
      float y[4] = {};
      if (!is_zero) {
        LoadFour(left + c + half, x);
        LoadFour(left + 8 * a_stride + c + half, y);
      }
      const LeftTile first = LeftTile::Of(x[0], y[0], x[1], y[1]);
      const LeftTile second = LeftTile::Of(x[2], y[2], x[3], y[3]);
      RightTile b[kTiles];
      RightTile b2[kTiles];
#pragma unroll
      for (int n = 0; n < kTiles; ++n) {
        float z[4];
        LoadFour(right + 8 * n * b_stride + c + half, z);
        b[n] = RightTile::Of(z[0], z[1]);
        b2[n] = RightTile::Of(z[2], z[3]);
      }
      Multiply(step, first, b);
      Multiply(step, second, b2);
    }
#pragma unroll
    for (int n = 0; n < kTiles; ++n) {
#pragma unroll
      for (int i = 0; i < 4; ++i) sums[n][i] += step[n][i];
    }
  }
}

}  // namespace weir::engine
