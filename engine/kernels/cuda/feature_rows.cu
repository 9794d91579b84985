// SPDX-License-Identifier: Apache-2.0
#include "engine/kernels/cuda/device_numbers.cuh"
#include "engine/kernels/cuda/feature_rows.h"

namespace weir::engine {
namespace {

constexpr int kThreads = 256;
constexpr int kWarps = kThreads / 32;
// Tokens that take a head's W together: it is read once for all of them.
constexpr int kTogether = 8;
constexpr int64_t kGridMax = 65535;
// What a sum of features is kept above; no configuration names it.
constexpr double kSumEps = 1e-4;

unsigned Blocks(int64_t work, int64_t each) {
  return static_cast<unsigned>((work + each - 1) / each);
}

template <typename T>
__device__ T SumOverWarp(T x) {
#pragma unroll
  for (int step = 16; step > 0; step /= 2) {
    x += __shfl_xor_sync(0xffffffffU, x, step);
  }
  return x;
}

// A NaN is not above, and comes back by the exponentials.
__device__ float MaxOverWarp(float x) {
#pragma unroll
  for (int step = 16; step > 0; step /= 2) {
    x = fmaxf(x, __shfl_xor_sync(0xffffffffU, x, step));
  }
  return x;
}

// Number i of (max(y, 0), max(-y, 0)).
__device__ float BothSides(const float* y, int32_t dim, int32_t i) {
  return Activated(Activation::kRelu, i < dim ? y[i] : -y[i - dim]);
}

// Feature i; of kHedgehog with `high` the greatest |y|, not yet divided.
__device__ float FeatureOf(
    FeatureMap map, const float* y, int32_t dim, int32_t i, float high) {
  switch (map) {
    case FeatureMap::kNone:
      return y[i];
    case FeatureMap::kEluPlusOne:
      return Activated(Activation::kEluPlusOne, y[i]);
    case FeatureMap::kRelu:
      return Activated(Activation::kRelu, y[i]);
    case FeatureMap::kProduct:
      return y[i] * y[dim + i];
    case FeatureMap::kHedgehog:
      return i < dim ? expf(2 * (y[i] - high)) : expf(-2 * (y[i - dim] + high));
    case FeatureMap::kDpfp: {
      const int32_t ring = 2 * dim;
      const int32_t at = i % ring;
      // A ring may be narrower than the shift.
      const int32_t back = (i / ring + 1) % ring;
      return BothSides(y, dim, at) *
             BothSides(y, dim, (at - back + ring) % ring);
    }
  }
  return 0;
}

// A warp has one head of one token.
__global__ void __launch_bounds__(kThreads)
    FeatureKernel(const __grid_constant__ FeatureRowsArgs args, int64_t items) {
  const int64_t item = (int64_t{blockIdx.x} * kThreads + threadIdx.x) / 32;
  if (item >= items) return;
  const int lane = static_cast<int>(threadIdx.x) % 32;
  const int32_t columns =
      args.map == FeatureMap::kProduct ? 2 * args.dim : args.dim;
  const float* y = args.y.data + item / args.heads * args.y.stride +
                   item % args.heads * columns;
  float* out = args.out + item * args.features;
  float high = 0;
  if (args.map == FeatureMap::kHedgehog) {
    for (int i = lane; i < args.dim; i += 32) high = fmaxf(high, fabsf(y[i]));
    high = MaxOverWarp(high);
  }
  float sum = 0;
  for (int i = lane; i < args.features; i += 32) {
    const float feature = FeatureOf(args.map, y, args.dim, i, high);
    out[i] = feature;
    sum += feature;
  }
  float factor = args.scale;
  if (args.map == FeatureMap::kHedgehog) {
    const float share = 1.0F / SumOverWarp(sum);
    for (int i = lane; i < args.features; i += 32) out[i] *= share;
  }
  if (args.divided) {
    // In fp64: features of both signs may add up to little.
    double total = 0;
    for (int i = lane; i < args.features; i += 32) total += double{out[i]};
    factor *= static_cast<float>(1 / (SumOverWarp(total) + kSumEps));
  }
  if (factor == 1.0F) return;
  for (int i = lane; i < args.features; i += 32) out[i] *= factor;
}

// A block has one head of kTogether tokens.
__global__ void __launch_bounds__(kThreads)
    RandomFeatureKernel(const __grid_constant__ RandomFeatureArgs args,
                        int64_t tokens) {
  __shared__ float x[kTogether][kRandomDimMax];
  static_assert(kTogether == kWarps);
  const int64_t first = int64_t{blockIdx.x} * kTogether;
  const int64_t head = blockIdx.y;
  const int warp = static_cast<int>(threadIdx.x) / 32;
  const int lane = static_cast<int>(threadIdx.x) % 32;
  const int64_t own = first + warp;
  float squares = 0;
  for (int i = lane; i < args.dim; i += 32) {
    float value = 0;
    if (own < tokens) {
      value =
          args.scale * args.x.data[own * args.x.stride + head * args.dim + i];
    }
    x[warp][i] = value;
    squares = fmaf(value, value, squares);
  }
  squares = SumOverWarp(squares);
  if (lane == 0 && own < tokens)
    args.half[own * args.heads + head] = squares / 2;
  __syncthreads();
  const float* weight = args.weight + head * args.weight_stride;
  for (int32_t f = threadIdx.x; f < args.features; f += kThreads) {
    float u[kTogether] = {};
    for (int i = 0; i < args.dim; ++i) {
      const float w = weight[int64_t{i} * args.features + f];
#pragma unroll
      for (int j = 0; j < kTogether; ++j) u[j] = fmaf(w, x[j][i], u[j]);
    }
#pragma unroll
    for (int j = 0; j < kTogether; ++j) {
      if (first + j >= tokens) break;
      if (args.is_relu) u[j] = (u[j] < 0 ? 0.0F : u[j]) + args.eps;
      args.u[((first + j) * args.heads + head) * args.features + f] = u[j];
    }
  }
}

// The greatest of a head's numbers, a warp's.
__device__ float GreatestOf(const float* u, int32_t count, int lane) {
  float high = -INFINITY;
  for (int i = lane; i < count; i += 32) high = fmaxf(high, u[i]);
  return MaxOverWarp(high);
}

// A warp has one head of one token.
__global__ void __launch_bounds__(kThreads)
    FavorQueryKernel(FavorQueryArgs args, int64_t items) {
  const int64_t item = (int64_t{blockIdx.x} * kThreads + threadIdx.x) / 32;
  if (item >= items) return;
  const int lane = static_cast<int>(threadIdx.x) % 32;
  float* u = args.u + item * args.features;
  const float high = GreatestOf(u, args.features, lane);
  const float half = args.half[item];
  float sum = 0;
  for (int i = lane; i < args.features; i += 32) {
    u[i] = expf((u[i] - high) - half) + args.eps;
    sum += u[i];
  }
  sum = SumOverWarp(sum);
  if (lane == 0) args.sums[item] = sum;
}

// A warp has one head of one row, its tokens one after another.
__global__ void __launch_bounds__(kThreads)
    FavorKeyKernel(FavorKeyArgs args, const uint32_t* consumed) {
  const int64_t item = (int64_t{blockIdx.x} * kThreads + threadIdx.x) / 32;
  const int64_t row = item / args.heads;
  if (row >= args.rows || args.slots[row] < 0) return;
  const int64_t head = item % args.heads;
  const int lane = static_cast<int>(threadIdx.x) % 32;
  const int64_t first = args.row_starts[row];
  const int64_t last = args.row_starts[row + 1];
  if (first == last) return;
  float* state = args.state + args.slots[row] * args.state_stride + head;
  float high = consumed[row] == 0 ? kFavorEmpty : *state;
  for (int64_t t = first; t < last; ++t) {
    const int64_t at = t * args.heads + head;
    float* u = args.u + at * args.features;
    const float next = fmaxf(high, GreatestOf(u, args.features, lane));
    const float half = args.half[at];
    for (int i = lane; i < args.features; i += 32) {
      u[i] = expf((u[i] - next) - half);
    }
    if (lane == 0) args.log2_decay[at] = (high - next) * kLog2E;
    high = next;
  }
  if (lane == 0) *state = high;
}

}  // namespace

cudaError_t FeatureRows(const FeatureRowsArgs& args,
                        int64_t tokens,
                        cudaStream_t stream) {
  const int64_t items = tokens * args.heads;
  if (items == 0) return cudaSuccess;
  FeatureKernel<<<Blocks(items, kWarps), kThreads, 0, stream>>>(args, items);
  return cudaGetLastError();
}

cudaError_t RandomFeatureRows(const RandomFeatureArgs& args,
                              int64_t tokens,
                              cudaStream_t stream) {
  if (args.dim > kRandomDimMax || args.heads > kGridMax) {
    return cudaErrorInvalidValue;
  }
  if (tokens * args.heads == 0) return cudaSuccess;
  const dim3 grid(Blocks(tokens, kTogether), static_cast<unsigned>(args.heads));
  RandomFeatureKernel<<<grid, kThreads, 0, stream>>>(args, tokens);
  return cudaGetLastError();
}

cudaError_t FavorQueryRows(const FavorQueryArgs& args,
                           int64_t tokens,
                           cudaStream_t stream) {
  const int64_t items = tokens * args.heads;
  if (items == 0) return cudaSuccess;
  FavorQueryKernel<<<Blocks(items, kWarps), kThreads, 0, stream>>>(args, items);
  return cudaGetLastError();
}

cudaError_t FavorKeyRows(const FavorKeyArgs& args,
                         const uint32_t* consumed,
                         cudaStream_t stream) {
  const int64_t items = int64_t{args.rows} * args.heads;
  if (items == 0) return cudaSuccess;
  FavorKeyKernel<<<Blocks(items, kWarps), kThreads, 0, stream>>>(args,
                                                                 consumed);
  return cudaGetLastError();
}

}  // namespace weir::engine
