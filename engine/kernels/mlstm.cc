// SPDX-License-Identifier: Apache-2.0
#include "engine/kernels/mlstm.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "engine/kernels/kernel_target.h"

namespace weir::engine {
namespace {

double LogSigmoid(double x) {
  return x > 0 ? -std::log1p(std::exp(-x)) : x - std::log1p(std::exp(x));
}

// The logarithms of one token's gates.
struct LogGates {
  double input;
  double forget;
};

LogGates GatesOf(const MlstmGateArgs& args, int64_t t, int64_t head) {
  const auto capped = [&args](float x) {
    return args.cap * std::tanh(x / double{args.cap});
  };
  return {.input = capped(args.input.data[t * args.input.stride + head]),
          .forget = LogSigmoid(
              capped(args.forget.data[t * args.forget.stride + head]))};
}

// Up, so that what is left of it never grows.
float RoundedUp(double x) {
  const auto rounded = static_cast<float>(x);
  return rounded < x
             ? std::nextafter(rounded, std::numeric_limits<float>::infinity())
             : rounded;
}

// One head of one row, from the maximum `m` to the one after it, each rounded
// to fp32 if `rounded`.
double GateHead(const MlstmGateArgs& args,
                int32_t row,
                int64_t head,
                bool rounded,
                double m) {
  for (int64_t t = args.row_starts[row]; t < args.row_starts[row + 1]; ++t) {
    const LogGates gates = GatesOf(args, t, head);
    const double exact = std::max(m + gates.forget, gates.input);
    const double next = rounded ? double{RoundedUp(exact)} : exact;
    const int64_t at = t * args.heads + head;
    args.log2_decay[at] =
        static_cast<float>((gates.forget + m - next) / std::log(2.0));
    args.write[at] = static_cast<float>(std::exp(gates.input - next));
    args.floor[at] = static_cast<float>(std::exp(-next));
    m = next;
  }
  return m;
}

// Items [begin, end).
void GateHeads(const MlstmGateArgs& args,
               int64_t begin,
               int64_t end,
               bool rounded) {
  for (int64_t item = begin; item < end; ++item) {
    const auto row = static_cast<int32_t>(item / args.heads);
    const int64_t head = item % args.heads;
    if (args.slots[row] < 0) continue;
    float* m = args.state + args.slots[row] * args.state_stride + head;
    *m = static_cast<float>(GateHead(args, row, head, rounded, *m));
  }
}

}  // namespace

void MlstmGatesReference(const MlstmGateArgs& args) {
  GateHeads(args, 0, int64_t{args.rows} * args.heads, /*rounded=*/false);
}

void MlstmGates(const MlstmGateArgs& args, int64_t begin, int64_t end) {
  GateHeads(args, begin, end, /*rounded=*/true);
}

void MlstmValues(const MlstmValueArgs& args, int64_t begin, int64_t end) {
  Kernels().mlstm_values(args, begin, end);
}

void MlstmRead(const MlstmReadArgs& args, int64_t begin, int64_t end) {
  Kernels().mlstm_read(args, begin, end);
}

}  // namespace weir::engine
