// SPDX-License-Identifier: Apache-2.0
#include "engine/kernels/activation.h"

#include "engine/kernels/kernel_target.h"

namespace weir::engine {

void Activate(Activation kind, float* x, int64_t count) {
  Kernels().activate(kind, x, count);
}

void SigmoidMultiply(TokenRows gate,
                     TokenRows up,
                     int32_t width,
                     float* out,
                     int64_t begin,
                     int64_t end) {
  Kernels().sigmoid_multiply(gate, up, width, out, begin, end);
}

}  // namespace weir::engine
