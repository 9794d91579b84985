// SPDX-License-Identifier: Apache-2.0
//
// Without the delta rule: a warpgroup that carries the state of 64 values
// through a row's chunks (chunk_shared.cuh). All its products have values for
// rows, so that what one product gives is the next one's left operand without
// leaving registers:
//
//   A = S q^T                                 [64 values, 64 tokens]
//   out^T = 2^g A + v^T scores^T
//   S <- 2^g_last S + (v^T 2^(g_last - g)) k  [64 values, K]
#pragma once

#include <cuda_bf16.h>

#include "engine/kernels/cuda/chunk_fragment.cuh"
#include "engine/kernels/cuda/chunk_shared.cuh"
#include "engine/kernels/cuda/chunk_state.cuh"
#include "engine/kernels/cuda/chunk_values.cuh"

namespace weir::engine {

template <typename Form>
class PlainState : public StateRows<Form::kKeyTiles> {
 public:
  using StateRows<Form::kKeyTiles>::StateRows;

  __device__ void End(const StateMemory& state) { this->Store(1.0F, state); }

  // One chunk, of which `count` tokens are written to out, this block's first
  // value's.
  __device__ void Step(ChunkTokens<Form>& tokens,
                       const ChunkOperands<false>& operands,
                       int count,
                       __nv_bfloat16* out,
                       int64_t stride) {
    const ChunkScales& scales = operands.scales;
    float reads[32] = {};  // A, then out
    Read(tokens, scales.from_start[kChunkTokens - 1], reads);
    Fragment v[4];
    uint8_t* values = tokens.v[this->group_];
    LoadValues(values, this->warp_, v);
    Update(tokens, operands, v, reads);
    WriteOut(
        reads, values, this->warp_, count, out + 64 * this->group_, stride);
  }

 private:
  static constexpr int kKeyTiles = Form::kKeyTiles;
  // Key tiles whose operands fit in registers together.
  static constexpr int kTilesAtOnce = kKeyTiles < 2 ? 1 : 2;
  static constexpr Number kNumber = Number::kBfloat;

  // A of the state at the chunk's start, which then decays.
  __device__ void Read(const ChunkTokens<Form>& tokens,
                       float decay,
                       float (&reads)[32]) {
    auto& sums = this->s_;
#pragma unroll
    for (int first = 0; first < kKeyTiles; first += kTilesAtOnce) {
      Fragment s[kTilesAtOnce][4];
#pragma unroll
      for (int i = 0; i < kTilesAtOnce; ++i) {
#pragma unroll
        for (int j = 0; j < 4; ++j) {
          Round<kNumber>(sums[first + i] + 8 * j, s[i][j]);
        }
#pragma unroll
        for (int j = 0; j < 32; ++j) sums[first + i][j] *= decay;
      }
      BeginProducts();
#pragma unroll
      for (int i = 0; i < 4 * kTilesAtOnce; ++i) {
        MultiplyAdd<kNumber, false>(
            reads,
            s[i / 4][i % 4],
            TileOperand(tokens.keys[first + i / 4].q) + i % 4 * kColumns16,
            first + i > 0);
      }
      CommitProducts();
      WaitProducts<0>();
      Pin(reads);
    }
  }

  // out and the new state, from A in `reads` and the values.
  __device__ void Update(const ChunkTokens<Form>& tokens,
                         const ChunkOperands<false>& operands,
                         const Fragment (&v)[4],
                         float (&reads)[32]) {
    const ChunkScales& scales = operands.scales;
    Fragment w[4];
#pragma unroll
    for (int j = 0; j < 4; ++j) {
      float values[8];
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        const float2 pair = Unpack<kNumber>(v[j][i]);
        values[2 * i] = pair.x;
        values[2 * i + 1] = pair.y;
      }
      Scale(scales.to_end, j, values);
      Round<kNumber>(values, w[j]);
      Scale(scales.from_start, j, reads + 8 * j);
    }
    BeginProducts();
    AddToState<kNumber, kKeyTiles, sizeof(KeyTile)>(
        tokens.keys[0].k, w, this->s_);
    AddScores<kNumber>(operands.scores[0], v, reads);
    EndProducts(reads, this->s_);
  }
};

}  // namespace weir::engine
