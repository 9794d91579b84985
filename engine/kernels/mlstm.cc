// SPDX-License-Identifier: Apache-2.0
#include "engine/kernels/mlstm.h"

#include <algorithm>
#include <cmath>

#include "engine/kernels/kernel_target.h"

namespace weir::engine {
namespace {

double LogSigmoid(double x) {
  return x > 0 ? -std::log1p(std::exp(-x)) : x - std::log1p(std::exp(x));
}

double Capped(double x, double cap) { return cap * std::tanh(x / cap); }

// One head of one row, from the maximum `m` to the one after it.
double GateHead(const MlstmGateArgs& args,
                int32_t row,
                int64_t head,
                double m) {
  for (int64_t t = args.row_starts[row]; t < args.row_starts[row + 1]; ++t) {
    const double i =
        Capped(args.input.data[t * args.input.stride + head], args.cap);
    const double log_f = LogSigmoid(
        Capped(args.forget.data[t * args.forget.stride + head], args.cap));
    const double next = std::max(m + log_f, i);
    const int64_t at = t * args.heads + head;
    args.log2_decay[at] =
        static_cast<float>((log_f + m - next) / std::log(2.0));
    args.write[at] = static_cast<float>(std::exp(i - next));
    args.floor[at] = static_cast<float>(std::exp(-next));
    m = next;
  }
  return m;
}

}  // namespace

void MlstmGatesReference(const MlstmGateArgs& args) {
  for (int32_t row = 0; row < args.rows; ++row) {
    if (args.slots[row] < 0) continue;
    float* state = args.state + args.slots[row] * args.state_stride;
    for (int64_t head = 0; head < args.heads; ++head) {
      state[head] = static_cast<float>(GateHead(args, row, head, state[head]));
    }
  }
}

void MlstmGates(const MlstmGateArgs& args, int64_t begin, int64_t end) {
  Kernels().mlstm_gates(args, begin, end);
}

void MlstmValues(const MlstmValueArgs& args, int64_t begin, int64_t end) {
  Kernels().mlstm_values(args, begin, end);
}

void MlstmRead(const MlstmReadArgs& args, int64_t begin, int64_t end) {
  Kernels().mlstm_read(args, begin, end);
}

}  // namespace weir::engine
