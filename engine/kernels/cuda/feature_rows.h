// SPDX-License-Identifier: Apache-2.0
//
// What stands in the place of queries and keys on a GPU, per token and head:
// the feature maps of flash-linear-attention's linear attention, and the random
// features of the Performer (favor.h).
//
// Bound: bytes of device memory; of the random features m d fused operations a
// token and head.
//
// Threads: any; the work is put on the caller's stream. Arrays lie in device
// memory. Each returns what the launch returned.
#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>

#include "engine/kernels/cuda/mixer_rows.h"
#include "engine/kernels/favor.h"

namespace weir::engine {

// Of y, a head's query or key or a product with it:
//   kNone, kEluPlusOne, kRelu   y, elu(y) + 1, max(y, 0)         F = K
//   kProduct     y[i] y[K + i]                                   F = K
//   kHedgehog    softmax(2 y, -2 y)                              F = 2K
//   kDpfp        r * roll(r, j) for j = 1..4, r = max((y, -y), 0)  F = 8K
enum class FeatureMap {
  kNone,
  kEluPlusOne,
  kRelu,
  kProduct,
  kHedgehog,
  kDpfp,
};

struct FeatureRowsArgs {
  FeatureMap map = FeatureMap::kNone;
  int32_t heads = 0;
  int32_t dim = 0;       // K
  int32_t features = 0;  // F
  TokenRows y;           // [T][heads, K, or 2K of kProduct]
  // Each head's features over their sum plus 1e-4, before the factor.
  bool divided = false;
  float scale = 1;
  float* out = nullptr;  // [T, heads, F], contiguous; not y
};
cudaError_t FeatureRows(const FeatureRowsArgs& args,
                        int64_t tokens,
                        cudaStream_t stream);

// u = W x of x = scale times a query or key, in fp32, and half |x|^2.
struct RandomFeatureArgs {
  int32_t heads = 0;
  int32_t dim = 0;       // d, at most kRandomDimMax
  int32_t features = 0;  // m
  TokenRows x;           // [T][heads, d]
  float scale = 1;
  const float* weight = nullptr;  // W transposed, [d, m], of a head
  int64_t weight_stride = 0;      // floats between two heads' W; 0: one for all
  // u becomes max(u, 0) + eps.
  bool is_relu = false;
  float eps = 0;
  float* u = nullptr;     // [T, heads, m], contiguous
  float* half = nullptr;  // [T, heads]
};
inline constexpr int32_t kRandomDimMax = 1024;
// cudaErrorInvalidValue for a dim beyond the limit.
cudaError_t RandomFeatureRows(const RandomFeatureArgs& args,
                              int64_t tokens,
                              cudaStream_t stream);

// FavorQueries and FavorKeys of favor.h; consumed [rows]: 0 for a slot that has
// met no key, whatever it holds.
cudaError_t FavorQueryRows(const FavorQueryArgs& args,
                           int64_t tokens,
                           cudaStream_t stream);
cudaError_t FavorKeyRows(const FavorKeyArgs& args,
                         const uint32_t* consumed,
                         cudaStream_t stream);

}  // namespace weir::engine
