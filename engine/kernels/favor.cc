// SPDX-License-Identifier: Apache-2.0
#include "engine/kernels/favor.h"

#include <algorithm>
#include <cmath>

#include "engine/kernels/kernel_target.h"

namespace weir::engine {

void FavorQueriesReference(const FavorQueryArgs& args,
                           int64_t begin,
                           int64_t end) {
  for (int64_t head = begin * args.heads; head < end * args.heads; ++head) {
    float* u = args.u + head * args.features;
    const double high = *std::max_element(u, u + args.features);
    double sum = 0;
    for (int32_t i = 0; i < args.features; ++i) {
      const double a =
          std::exp(u[i] - double{args.half[head]} - high) + args.eps;
      sum += a;
      u[i] = static_cast<float>(a);
    }
    args.sums[head] = static_cast<float>(sum);
  }
}

void FavorQueries(const FavorQueryArgs& args, int64_t begin, int64_t end) {
  Kernels().favor_queries(args, begin, end);
}

void FavorKeysReference(const FavorKeyArgs& args) {
  for (int32_t row = 0; row < args.rows; ++row) {
    if (args.slots[row] < 0) continue;
    float* state = args.state + args.slots[row] * args.state_stride;
    for (int64_t head = 0; head < args.heads; ++head) {
      float high = state[head];
      for (int64_t t = args.row_starts[row]; t < args.row_starts[row + 1];
           ++t) {
        const int64_t at = t * args.heads + head;
        float* u = args.u + at * args.features;
        const float next =
            std::max(high, *std::max_element(u, u + args.features));
        args.log2_decay[at] =
            static_cast<float>((double{high} - next) / std::log(2.0));
        for (int32_t i = 0; i < args.features; ++i) {
          u[i] =
              static_cast<float>(std::exp(double{u[i]} - args.half[at] - next));
        }
        high = next;
      }
      state[head] = high;
    }
  }
}

void FavorKeys(const FavorKeyArgs& args, int64_t begin, int64_t end) {
  Kernels().favor_keys(args, begin, end);
}

void FavorRead(const FavorReadArgs& args, int64_t begin, int64_t end) {
  Kernels().favor_read(args, begin, end);
}

}  // namespace weir::engine
