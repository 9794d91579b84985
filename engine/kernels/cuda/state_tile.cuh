// SPDX-License-Identifier: Apache-2.0
//
// The part of a head's state that a block of threads holds in registers: some
// rows of V, each of K numbers.
//
// kLanes = K / 16 neighbouring threads hold a row, 16 numbers each, in pieces
// of 16 bytes that interleave: a warp's load takes whole cache lines. The block
// goes over its rows in kPasses passes of kThreads / kLanes rows.
//
// Threads: all of a block call each function together.
#pragma once

#include <cuda_bf16.h>

#include <cstdint>

#include "engine/kernels/cuda/rounding.cuh"

namespace weir::engine {

inline constexpr int kTileThreads = 256;
inline constexpr int kTileNumbers = 16;  // of a row, held by one thread

// Where a tile's rows lie: device memory that is read once, or shared memory.
enum class Memory { kDevice, kShared };

template <typename Number,
          int kKeyDim,
          int kPassesIn,
          Memory kMemory = Memory::kDevice>
struct StateTile {
  static constexpr int kPasses = kPassesIn;
  static constexpr int kLanes = kKeyDim / kTileNumbers;
  static constexpr int kPassRows = kTileThreads / kLanes;
  static constexpr int kRows = kPasses * kPassRows;
  static constexpr int kPieceNumbers = 16 / static_cast<int>(sizeof(Number));
  static constexpr int kPieces = kTileNumbers / kPieceNumbers;

  float numbers[kPasses][kTileNumbers];

  // Of the kTileThreads that share a tile; a block may have several of them.
  __device__ static int Thread() {
    return static_cast<int>(threadIdx.x) % kTileThreads;
  }
  __device__ static int Lane() { return Thread() % kLanes; }
  __device__ static int Row(int pass) {
    return pass * kPassRows + Thread() / kLanes;
  }
  // The column of this thread's number i.
  __device__ static int Column(int i) {
    return (Lane() + i / kPieceNumbers * kLanes) * kPieceNumbers +
           i % kPieceNumbers;
  }

  // `from` is the tile's first row; rows of `rows` and columns of `key_dim` on
  // are zero, and so is all of a fresh state. kWhole: key_dim is kKeyDim.
  template <bool kWhole>
  __device__ void Load(const Number* from, int rows, int key_dim, bool fresh) {
#pragma unroll
    for (int pass = 0; pass < kPasses; ++pass) {
      const int row = Row(pass);
      const bool here = row < rows && !fresh;
      const Number* p = from + static_cast<int64_t>(row) * key_dim;
#pragma unroll
      for (int piece = 0; piece < kPieces; ++piece) {
        float* to = numbers[pass] + piece * kPieceNumbers;
        const int column = Column(piece * kPieceNumbers);
        if constexpr (kWhole) {
          LoadPiece(p + column, here, to);
        } else {
#pragma unroll
          for (int i = 0; i < kPieceNumbers; ++i) {
            to[i] = here && column + i < key_dim
                        ? static_cast<float>(p[column + i])
                        : 0.0F;
          }
        }
      }
    }
  }

  template <bool kWhole>
  __device__ void Store(Number* to,
                        int rows,
                        int key_dim,
                        RoundingKey key) const {
#pragma unroll
    for (int pass = 0; pass < kPasses; ++pass) {
      const int row = Row(pass);
      if (row >= rows) continue;
      Number* p = to + static_cast<int64_t>(row) * key_dim;
      const uint32_t row_bits = key.Bits(row * kKeyDim);
#pragma unroll
      for (int piece = 0; piece < kPieces; ++piece) {
        const float* from = numbers[pass] + piece * kPieceNumbers;
        const int column = Column(piece * kPieceNumbers);
        if constexpr (kWhole) {
          StorePiece(from, p + column, key, row_bits, column);
        } else {
#pragma unroll
          for (int i = 0; i < kPieceNumbers; ++i) {
            if (column + i >= key_dim) break;
            StoreOne(from[i], p + column + i, key, row_bits, column + i);
          }
        }
      }
    }
  }

  // A piece of 16 bytes, or zeros.
  __device__ static void LoadPiece(const Number* p, bool here, float* to) {
    if constexpr (sizeof(Number) == 4) {
      float4 x = make_float4(0, 0, 0, 0);
      if (here) x = Read(reinterpret_cast<const float4*>(p));
      to[0] = x.x;
      to[1] = x.y;
      to[2] = x.z;
      to[3] = x.w;
    } else {
      uint4 x = make_uint4(0, 0, 0, 0);
      if (here) x = Read(reinterpret_cast<const uint4*>(p));
      const uint32_t words[4] = {x.x, x.y, x.z, x.w};
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        to[2 * i] = __uint_as_float(words[i] << 16);
        to[2 * i + 1] = __uint_as_float(words[i] & 0xffff0000U);
      }
    }
  }

 private:
  template <typename Piece>
  __device__ static Piece Read(const Piece* p) {
    if constexpr (kMemory == Memory::kDevice) {
      return __ldcs(p);
    } else {
      return *p;
    }
  }
  template <typename Piece>
  __device__ static void Write(Piece* p, Piece x) {
    if constexpr (kMemory == Memory::kDevice) {
      __stcs(p, x);
    } else {
      *p = x;
    }
  }

  __device__ static void StorePiece(const float* from,
                                    Number* p,
                                    RoundingKey key,
                                    uint32_t row_bits,
                                    uint32_t column) {
    if constexpr (sizeof(Number) == 4) {
      Write(reinterpret_cast<float4*>(p),
            make_float4(from[0], from[1], from[2], from[3]));
    } else {
      uint32_t words[4];
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        words[i] = RoundPair<false>(from[2 * i],
                                    from[2 * i + 1],
                                    row_bits ^ key.ColumnBits(column + 2 * i));
      }
      Write(reinterpret_cast<uint4*>(p),
            make_uint4(words[0], words[1], words[2], words[3]));
    }
  }

  __device__ static void StoreOne(float from,
                                  Number* p,
                                  RoundingKey key,
                                  uint32_t row_bits,
                                  uint32_t column) {
    if constexpr (sizeof(Number) == 4) {
      *p = from;
    } else {
      // The pair's bits, as StorePiece has them.
      const uint32_t chance = row_bits ^ key.ColumnBits(column & ~1U);
      const uint32_t half =
          (column & 1U) != 0 ? chance >> 16 : chance & 0xffffU;
      *p = __ushort_as_bfloat16(
          static_cast<uint16_t>(RoundByChance(from, half)));
    }
  }
};

}  // namespace weir::engine
