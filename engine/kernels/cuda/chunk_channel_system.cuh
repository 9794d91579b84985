// SPDX-License-Identifier: Apache-2.0
//
// With a decay a key channel: what a chunk's tokens and gates give that does
// not depend on the state, of all chunks at once, to a workspace in device
// memory (chunk_shared.cuh): the triangular system's inverse, scores, and
// queries and keys with the decays they meet the state by.
#pragma once

#include "engine/kernels/cuda/chunk_channel_blocks.cuh"
#include "engine/kernels/cuda/chunk_channel_near.cuh"
#include "engine/kernels/cuda/chunk_channel_write.cuh"
#include "engine/kernels/cuda/chunk_inverse.cuh"
#include "engine/kernels/cuda/chunk_shared.cuh"
#include "engine/kernels/cuda/chunk_system.cuh"
#include "engine/kernels/cuda/chunk_transfer.cuh"

namespace weir::engine {

// A warpgroup makes the system and its inverse, another the scores and what
// meets the state.
inline constexpr int kChannelThreads = 2 * kWarpgroup;

template <int kKeyTiles>
struct ChannelShared {
  KeyTile keys[kKeyTiles];
  LowerMatrix lower;
  TwiceTile inverse;
  ChannelSums<kKeyTiles> sums;
  float near[2][4][4][16];  // of either warpgroup's warps
  float totals[4][64 * kKeyTiles];
  float beta[kChunkTokens];
};

// G of all channels and tokens.
template <int kKeyTiles>
__device__ inline void SumChannels(const ChunkArgs& args,
                                   int64_t token,
                                   int32_t head,
                                   int count,
                                   ChannelShared<kKeyTiles>& shared) {
  constexpr float kLeast = -200.0F;  // as SumDecays
  constexpr int kKeys = 64 * kKeyTiles;
  constexpr int kParts = kChannelThreads / kKeys;
  constexpr int kTokens = kChunkTokens / kParts;
  const int channel = static_cast<int>(threadIdx.x) % kKeys;
  const int part = static_cast<int>(threadIdx.x) / kKeys;
  const int first = part * kTokens;
  const float* decays = args.log2_decay.data +
                        (token + first) * args.log2_decay.stride +
                        int64_t{head} * kKeys + channel;
  float g[kTokens];
#pragma unroll
  for (int i = 0; i < kTokens; ++i) {
    g[i] = first + i < count ? decays[i * args.log2_decay.stride] : 0.0F;
  }
  float sum = 0.0F;
#pragma unroll
  for (int i = 0; i < kTokens; ++i) {
    sum += g[i] < kLeast ? kLeast : g[i];
    g[i] = sum;
  }
  shared.totals[part][channel] = sum;
  __syncthreads();
  float before = 0.0F;
  for (int i = 0; i < part; ++i) before += shared.totals[i][channel];
#pragma unroll
  for (int i = 0; i < kTokens; ++i) {
    shared.sums.g[first + i][channel] = before + g[i];
  }
}

// A block has one chunk of a head: blockIdx is (head, place in the workspace).
template <int kKeyTiles>
__global__ void __launch_bounds__(kChannelThreads, 2)
    ChannelSystemKernel(const __grid_constant__ ChunkArgs args) {
  extern __shared__ __align__(1024) uint8_t memory[];
  auto& shared = *reinterpret_cast<ChannelShared<kKeyTiles>*>(memory);
  int32_t row = 0;
  int32_t chunk = 0;
  if (!FindChunk(args, static_cast<int32_t>(blockIdx.y), row, chunk)) return;
  const int32_t head = static_cast<int32_t>(blockIdx.x);
  const int64_t token = args.row_starts[row] + int64_t{chunk} * kChunkTokens;
  const int count = static_cast<int>(
      min(int64_t{kChunkTokens}, args.row_starts[row + 1] - token));
  const int32_t key = head / (args.heads / args.key_heads) * kKeyTiles * 64;
  const int group =
      __shfl_sync(0xffffffffU, static_cast<int>(threadIdx.x) / kWarpgroup, 0);
  const int warp = __shfl_sync(0xffffffffU, threadIdx.x % kWarpgroup / 32, 0);
  const bool corrects = args.beta.data != nullptr;
  constexpr int kApart = sizeof(KeyTile);
  if (group == 0) {
    CopyTiles<kKeyTiles, kApart>(args.k, token, key, count, shared.keys[0].k);
    if (corrects) CopyGates(args.beta, token, head, count, shared.beta);
  } else {
    CopyTiles<kKeyTiles, kApart>(args.q, token, key, count, shared.keys[0].q);
  }
  CommitCopies();
  SumChannels(args, token, head, count, shared);
  WaitCopies<0>();
  __syncthreads();

  ChannelOperands<kKeyTiles>& operands =
      static_cast<ChannelOperands<kKeyTiles>*>(
          args.workspace)[int64_t{blockIdx.y} * args.heads + head];
  const ChannelScale scale = ScaleOf(args);
  float(&near)[4][16] = shared.near[group][warp];
  if (group == 0 && !corrects) {
    WriteIdentity(operands.inverse);
    return;
  }
  const auto rows = group == 0 ? &KeyTile::k : &KeyTile::q;
  const float row_scale = group == 0 ? scale.key : scale.query;
  RowSums sums = {};
  MultiplyRows(
      shared.keys, rows, shared.sums, warp, row_scale, scale.key, sums);
  MultiplyNear(
      shared.keys, rows, shared.sums, warp, row_scale * scale.key, near);
  if (group == 0) {
    WriteChannelSystem(sums,
                       near,
                       shared.beta,
                       1.0F / (scale.key * scale.key),
                       warp,
                       shared.lower);
    InvertLower(shared.lower, warp, shared.inverse);
    VisitLowerWords([&](int word) {
#pragma unroll
      for (int i = 0; i < 2; ++i) {
        reinterpret_cast<uint4*>(operands.inverse[i])[word] =
            reinterpret_cast<const uint4*>(shared.inverse[i])[word];
      }
    });
    return;
  }
  WriteChannelScores(sums, near, warp, operands.scores[0]);
  WriteDecayed(shared.keys,
               shared.sums,
               kReadScale * scale.query,
               scale.key,
               warp,
               operands);
  const int at = static_cast<int>(threadIdx.x) % kWarpgroup;
  if (at < kChunkTokens) {
    const float beta = corrects ? shared.beta[at] : 1.0F;
    operands.scales.beta[at] = beta / scale.key;
    operands.scales.beta_from_start[at] =
        corrects ? beta / (scale.key * scale.key) : 0.0F;
  }
}

}  // namespace weir::engine
