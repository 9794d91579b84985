// SPDX-License-Identifier: Apache-2.0
#include "engine/kernels/token_shift.h"

#include "engine/kernels/kernel_target.h"

namespace weir::engine {

void ShiftTokensReference(const TokenShiftArgs& args) {
  for (int32_t row = 0; row < args.rows; ++row) {
    if (args.slots[row] < 0) continue;
    float* state = args.state + args.slots[row] * args.state_stride;
    for (int64_t t = args.row_starts[row]; t < args.row_starts[row + 1]; ++t) {
      for (int32_t c = 0; c < args.channels; ++c) {
        const float x = args.x.data[t * args.x.stride + c];
        args.delta[t * args.channels + c] = state[c] - x;
        state[c] = x;
      }
    }
  }
}

void ShiftTokens(const TokenShiftArgs& args, int64_t begin, int64_t end) {
  Kernels().shift_tokens(args, begin, end);
}

void Lerp(const LerpArgs& args, int64_t begin, int64_t end) {
  Kernels().lerp(args, begin, end);
}

}  // namespace weir::engine
