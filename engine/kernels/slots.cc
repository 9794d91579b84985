// SPDX-License-Identifier: Apache-2.0
#include "engine/kernels/slots.h"

#include <algorithm>
#include <cmath>
#include <vector>

#include "engine/kernels/kernel_target.h"

namespace weir::engine {

void SlotGatesReference(const SlotGateArgs& args, int64_t begin, int64_t end) {
  for (int64_t t = begin; t < end; ++t) {
    for (int32_t i = 0; i < args.width; ++i) {
      const double f = args.f.data[t * args.f.stride + i];
      const double log_sigmoid =
          f > 0 ? -std::log1p(std::exp(-f)) : f - std::log1p(std::exp(f));
      const double natural = log_sigmoid * args.scale;
      args.log2_decay[t * args.width + i] =
          static_cast<float>(natural / std::log(2.0));
      args.write[t * args.width + i] = static_cast<float>(-std::expm1(natural));
    }
  }
}

void SlotGates(const SlotGateArgs& args, int64_t begin, int64_t end) {
  Kernels().slot_gates(args, begin, end);
}

void SlotSoftmaxReference(const SlotSoftmaxArgs& args,
                          int64_t begin,
                          int64_t end) {
  std::vector<double> weights(static_cast<size_t>(args.slots));
  for (int64_t head = begin * args.heads; head < end * args.heads; ++head) {
    float* x = args.x + head * args.slots;
    const double high = *std::max_element(x, x + args.slots);
    double sum = 0;
    for (size_t i = 0; i < weights.size(); ++i) {
      weights[i] = std::exp(x[i] - high);
      sum += weights[i];
    }
    for (size_t i = 0; i < weights.size(); ++i) {
      x[i] = static_cast<float>(weights[i] / sum);
    }
  }
}

void SlotSoftmax(const SlotSoftmaxArgs& args, int64_t begin, int64_t end) {
  Kernels().slot_softmax(args, begin, end);
}

}  // namespace weir::engine
