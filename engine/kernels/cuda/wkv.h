// SPDX-License-Identifier: Apache-2.0
//
// RWKV-4's recurrence on a GPU, one token after another, by the scheme of
// wkv_kernel.h: all decay is taken from the exponent, and exponent and sums
// keep what their last change rounded away. Its outputs leave it gated:
//
//   out = sigmoid(r) o
//
// Bound: for rows of few tokens bytes, 48 a channel and row and 12 a channel
// and token; for long ones what a token takes after the one before, two
// exponentials and a quotient.
//
// Threads: any; the work is put on the caller's stream.
#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>

#include "engine/kernels/cuda/decode.h"
#include "engine/kernels/wkv.h"

namespace weir::engine {

struct WkvRowsArgs {
  // Its arrays lie in device memory; `out` is not used. Tokens of a row whose
  // slot is -1 are neither read nor written.
  WkvArgs wkv;
  // [rows]: 0 for a slot that has consumed no token, which reads as empty
  // whatever it holds.
  const uint32_t* consumed = nullptr;
  TokenRows r;  // [T][C]
  StateNumber number = StateNumber::kBfloat16;
  void* out = nullptr;  // [T, C] of `number`, contiguous
};

// cudaErrorInvalidValue for more rows than a launch has; otherwise what the
// launch returned.
cudaError_t WkvRows(const WkvRowsArgs& args, cudaStream_t stream);

}  // namespace weir::engine
