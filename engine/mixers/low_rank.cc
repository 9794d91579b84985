// SPDX-License-Identifier: Apache-2.0
#include "engine/mixers/low_rank.h"

#include "engine/mixers/parallel.h"

namespace weir::engine {

LowRank::LowRank(int64_t inputs,
                 int64_t rank,
                 int64_t outputs,
                 Activation activation,
                 bool has_bias)
    : outputs_(outputs),
      activation_(activation),
      has_bias_(has_bias),
      down_(inputs, rank, false),
      up_(rank, outputs, has_bias) {}

std::vector<WeightSlot> LowRank::Weights(const std::string& prefix) {
  std::vector<WeightSlot> slots = {
      down_.Rows(prefix + "lora.0.weight", 0, down_.outputs()),
      up_.Rows(prefix + "lora.2.weight", 0, outputs_)};
  if (has_bias_) slots.push_back(up_.Bias(prefix + "lora.2.bias", 0, outputs_));
  return slots;
}

void LowRank::Forward(const float* x,
                      int64_t tokens,
                      float* middle,
                      float* y) const {
  const int64_t rank = down_.outputs();
  down_.Forward(x, tokens, middle);
  ParallelFor(tokens, 4 * rank, [&](int64_t begin, int64_t end) {
    Activate(activation_, middle + begin * rank, (end - begin) * rank);
  });
  up_.Forward(middle, tokens, y);
}

}  // namespace weir::engine
