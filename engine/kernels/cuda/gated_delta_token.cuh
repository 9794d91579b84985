// SPDX-License-Identifier: Apache-2.0
//
// What stands around the recurrence in gated_delta_decode.h, for one token and
// one tile of a head: norms and gates before it, the gated norm after it.
//
// Threads: all of a block call each function together.
#pragma once

#include <cooperative_groups.h>

#include <cstdint>

#include "engine/kernels/cuda/gated_delta_decode.h"
#include "engine/kernels/cuda/gated_delta_inputs.cuh"
#include "engine/kernels/cuda/token_step.cuh"

namespace weir::engine {

template <int kKeyDim, int kRows>
struct GatedDeltaShared {
  TokenOperands<kKeyDim, kRows> token;
  float squares[2 * kKeyDim / kWarp];  // of q and k, by warp
  alignas(16) float o[kRows];
  float o_squares[kRows / kSquaresGroup];  // read by the head's other blocks
};

// What one thread reads of a token.
template <int kWidth, int kKeyDim, int kRows>
struct TokenInputs {
  static constexpr int kChannels = 2 * kKeyDim + kRows;
  static constexpr int kEach = (kChannels + kTileThreads - 1) / kTileThreads;

  ChannelInputs<kWidth> channels[kEach];
  float a;
  float b;
  float z;  // of value threadIdx.x of the tile
};

template <typename Input, int kWidth, int kKeyDim, int kRows>
__device__ void FetchToken(const GatedDeltaDecodeArgs& args,
                           const TilePlace& place,
                           int i,
                           TokenInputs<kWidth, kKeyDim, kRows>& token) {
#pragma unroll
  for (int each = 0; each < token.kEach; ++each) {
    int c = each * kTileThreads + static_cast<int>(threadIdx.x);
    // Past the end the first channel is read again.
    if (c >= 2 * kKeyDim + place.values) c = 0;
    token.channels[each] = FetchChannel<Input, kWidth>(
        args, place, i, ColumnOf<kKeyDim>(args, place, c));
  }
  const auto* x = static_cast<const Input*>(args.projected) +
                  (place.first + i) * args.projected_stride;
  token.a = static_cast<float>(x[args.a_column + place.head]);
  token.b = static_cast<float>(x[args.b_column + place.head]);
  const int value = min(static_cast<int>(threadIdx.x), place.values - 1);
  token.z = args.gate == GateKind::kNone
                ? 0.0F
                : static_cast<float>(x[args.z_column + place.value + value]);
}

// Fills shared.token with a token.
template <int kWidth, int kKeyDim, int kRows>
__device__ void PrepareToken(const GatedDeltaDecodeArgs& args,
                             const TilePlace& place,
                             const TokenInputs<kWidth, kKeyDim, kRows>& token,
                             GatedDeltaShared<kKeyDim, kRows>& shared) {
  float y[token.kEach];
#pragma unroll
  for (int each = 0; each < token.kEach; ++each) {
    // A warp's channels are all of q, all of k or all values.
    const int c = each * kTileThreads + static_cast<int>(threadIdx.x);
    y[each] = Convolved(token.channels[each]);
    if (c >= 2 * kKeyDim) {
      if (c < token.kChannels) shared.token.v[c - 2 * kKeyDim] = y[each];
      continue;
    }
    const float sum = SumOverLanes<kWarp>(__fmul_rn(y[each], y[each]));
    if (c % kWarp == 0) shared.squares[c / kWarp] = sum;
  }
  if (threadIdx.x == 0) {
    shared.token.decay =
        exp2f(place.log2_rate * SoftplusOf(token.a + place.dt_bias));
    shared.token.beta = args.beta_scale * SigmoidOf(token.b);
  }
  __syncthreads();
#pragma unroll
  for (int each = 0; each < token.kEach; ++each) {
    const int c = each * kTileThreads + static_cast<int>(threadIdx.x);
    if (c >= 2 * kKeyDim) continue;
    const bool is_query = c < kKeyDim;
    float sum = kHeadNormEps;
#pragma unroll
    for (int w = 0; w < kKeyDim / kWarp; ++w) {
      sum += shared.squares[(is_query ? 0 : kKeyDim / kWarp) + w];
    }
    const float scale =
        is_query ? 1.0F / sqrtf(static_cast<float>(kKeyDim)) : 1.0F;
    float* to = is_query ? &shared.token.q[c] : &shared.token.k[c - kKeyDim];
    *to = y[each] * scale * rsqrtf(sum);
  }
  __syncthreads();
}

// The sum of the squares of a head, of all its blocks, which are a cluster. Its
// order is that of the values, whatever the blocks: a row's result does not
// depend on how its head is cut.
template <int kRows, typename Shared>
__device__ float SumOfHead(const Shared& shared, int values, bool is_cluster) {
  const int group = static_cast<int>(threadIdx.x) % kWarp;
  const bool here = group * kSquaresGroup < values;
  float squares = 0;
#if __CUDA_ARCH__ >= 900
  if (is_cluster) {
    namespace groups = cooperative_groups;
    const groups::cluster_group cluster = groups::this_cluster();
    cluster.sync();
    if (here) {
      constexpr int kGroups = kRows / kSquaresGroup;
      squares = cluster.map_shared_rank(shared.o_squares,
                                        group / kGroups)[group % kGroups];
    }
    // No block may go on to write its squares while another reads them.
    cluster.sync();
    return SumOverLanes<kWarp>(squares);
  }
#endif
  __syncthreads();
  if (here) squares = shared.o_squares[group];
  return SumOverLanes<kWarp>(squares);
}

// out of token i from shared.o; z is what FetchToken read of it.
template <typename Input, int kKeyDim, int kRows>
__device__ void FinishToken(const GatedDeltaDecodeArgs& args,
                            const TilePlace& place,
                            int i,
                            float z,
                            bool is_cluster,
                            GatedDeltaShared<kKeyDim, kRows>& shared) {
  const int r = static_cast<int>(threadIdx.x);
  static_assert(kRows <= kTileThreads);
  const bool here = r < place.values;
  const float o = here ? shared.o[r] : 0.0F;
  const float sum = SumOverLanes<kSquaresGroup>(__fmul_rn(o, o));
  if (r % kSquaresGroup == 0 && r < kRows) {
    shared.o_squares[r / kSquaresGroup] = sum;
  }
  const float total = SumOfHead<kRows>(shared, args.value_dim, is_cluster);
  if (!here) return;
  float y = o *
            rsqrtf(total / static_cast<float>(args.value_dim) + args.norm_eps) *
            place.norm_weight;
  if (args.gate == GateKind::kSilu) y *= SiluOf(z);
  if (args.gate == GateKind::kSigmoid) y *= SigmoidOf(z);
  static_cast<Input*>(
      args.out)[(place.first + i) * args.out_stride + place.value + r] =
      static_cast<Input>(y);
}

}  // namespace weir::engine
