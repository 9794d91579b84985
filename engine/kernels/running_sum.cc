// SPDX-License-Identifier: Apache-2.0
#include "engine/kernels/running_sum.h"

#include <cmath>
#include <vector>

#include "engine/kernels/kernel_target.h"

namespace weir::engine {
namespace {

// One head of one row; z are its sums.
void SumHead(const RunningSumArgs& args,
             int32_t row,
             int64_t head,
             std::vector<double>& z) {
  const int64_t dim = args.dim;
  for (int64_t t = args.row_starts[row]; t < args.row_starts[row + 1]; ++t) {
    double decay = 1;
    if (args.log2_decay.data != nullptr) {
      decay = std::exp2(
          double{args.log2_decay.data[t * args.log2_decay.stride + head]});
    }
    const float* x = args.x.data + t * args.x.stride + head * dim;
    for (int64_t i = 0; i < dim; ++i) z[i] = decay * z[i] + x[i];
    float* out = args.out + t * args.out_stride;
    if (args.q.data == nullptr) {
      for (int64_t i = 0; i < dim; ++i) {
        out[head * dim + i] = static_cast<float>(z[i]);
      }
      continue;
    }
    const float* q = args.q.data + t * args.q.stride + head * dim;
    double dot = 0;
    for (int64_t i = 0; i < dim; ++i) dot += (z[i] + args.eps) * q[i];
    out[head] = static_cast<float>(dot);
  }
}

}  // namespace

void RunningSumReference(const RunningSumArgs& args) {
  const int64_t dim = args.dim;
  std::vector<double> z(static_cast<size_t>(dim));
  for (int32_t row = 0; row < args.rows; ++row) {
    if (args.slots[row] < 0) continue;
    for (int64_t head = 0; head < args.heads; ++head) {
      float* high =
          args.state + args.slots[row] * args.state_stride + head * 2 * dim;
      float* low = high + dim;
      for (int64_t i = 0; i < dim; ++i) z[i] = double{high[i]} + low[i];
      SumHead(args, row, head, z);
      for (int64_t i = 0; i < dim; ++i) {
        high[i] = static_cast<float>(z[i]);
        low[i] = static_cast<float>(z[i] - high[i]);
      }
    }
  }
}

void RunningSum(const RunningSumArgs& args, int64_t begin, int64_t end) {
  Kernels().running_sum(args, begin, end);
}

}  // namespace weir::engine
