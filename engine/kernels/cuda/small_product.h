// SPDX-License-Identifier: Apache-2.0
//
// y = x W^T for few tokens on a GPU, with what stands before and behind the
// product in a decoder: the norm of the residual stream on the way in, the
// feed-forward gate or the sum with the residual stream on the way out.
//
// Bound: the bytes of W, once. A launch may begin before the one before it on
// the stream has ended: it asks for its first weights, then waits.
//
// Threads: any; the work is put on the caller's stream.
#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>

#include "engine/kernels/cuda/decode.h"
#include "engine/kernels/pointwise.h"

namespace weir::engine {

// With more tokens cuBLASLt is faster: docs/kernels/step.md.
inline constexpr int64_t kSmallProductTokensMax = 2;

// Where x comes from.
enum class ProductSource {
  kRows,  // x [tokens][inputs] of `number`
  kNorm,  // the norm of fp32 x [tokens][inputs], not centered, without a bias;
          // its factors are rounded to `number` before its scale is taken
};
// Where y goes.
enum class ProductTarget {
  kRows,   // y [tokens][outputs] of `number`
  kFloat,  // fp32
  kAdd,    // fp32 y += the product
  kSilu,   // y [tokens][outputs / 2] of `number`: silu(first half) * second
};

// Arrays lie in device memory, rows begin at 16 bytes.
struct ProductArgs {
  StateNumber number = StateNumber::kBfloat16;
  int64_t tokens = 0;
  int32_t inputs = 0;
  int32_t outputs = 0;
  const void* weight = nullptr;  // [outputs, inputs] of `number`
  ProductSource source = ProductSource::kRows;
  const void* x = nullptr;
  int64_t x_stride = 0;  // numbers between two tokens
  NormArgs norm = {};    // kNorm; width is inputs
  ProductTarget target = ProductTarget::kRows;
  void* y = nullptr;
  int64_t y_stride = 0;  // numbers between two tokens
};

// Whether SmallProduct takes it.
bool IsSmallProduct(const ProductArgs& args);

// REQUIRES: IsSmallProduct(args).
cudaError_t SmallProduct(const ProductArgs& args, cudaStream_t stream);

}  // namespace weir::engine
