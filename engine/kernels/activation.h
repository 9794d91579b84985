// SPDX-License-Identifier: Apache-2.0
//
// Activations between the matrix products, fp32.
//
// Threads: none of their own; disjoint ranges may run in parallel.
#pragma once

#include <cstdint>

#include "engine/kernels/recurrence.h"

namespace weir::engine {

enum class Activation {
  kNone,
  kTanh,
  kSigmoid,
  kSilu,
  kRelu,
  kSquaredRelu,
  kEluPlusOne,  // x + 1 above zero, e^x below
};

// x = f(x), over x [count]; kSquaredRelu is max(x, 0)^2.
void Activate(Activation kind, float* x, int64_t count);

// out = sigmoid(gate) * up, tokens [begin, end). gate and up [T][width]; out
// [T, width], contiguous; may be either.
void SigmoidMultiply(TokenRows gate,
                     TokenRows up,
                     int32_t width,
                     float* out,
                     int64_t begin,
                     int64_t end);

}  // namespace weir::engine
