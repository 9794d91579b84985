// SPDX-License-Identifier: Apache-2.0
#include "engine/mixers/feed_forward.h"

#include <string>

#include "engine/kernels/pointwise.h"
#include "engine/mixers/parallel.h"

namespace weir::engine {

SwiGlu::SwiGlu(int64_t hidden, int64_t intermediate, const Names& names)
    : intermediate_(intermediate),
      names_(names),
      gate_up_(hidden, 2 * intermediate, false),
      down_(intermediate, hidden, false) {}

std::vector<WeightSlot> SwiGlu::Weights() {
  const std::string gate = std::string(names_.gate) + ".weight";
  const std::string up = names_.up;
  std::vector<WeightSlot> slots = {
      down_.Rows(std::string(names_.down) + ".weight", 0, down_.outputs())};
  if (up.empty()) {
    slots.push_back(gate_up_.Rows(gate, 0, 2 * intermediate_));
  } else {
    slots.push_back(gate_up_.Rows(gate, 0, intermediate_));
    slots.push_back(
        gate_up_.Rows(up + ".weight", intermediate_, intermediate_));
  }
  return slots;
}

void SwiGlu::Forward(const MixerInput& input,
                     float* workspace,
                     float* out) const {
  const int64_t tokens = input.batch->tokens;
  float* gate_up = workspace;
  float* product = gate_up + tokens * 2 * intermediate_;
  gate_up_.Forward(input.x, tokens, gate_up);
  ParallelFor(tokens, 4 * intermediate_, [&](int64_t begin, int64_t end) {
    SiluMultiply({gate_up, 2 * intermediate_},
                 {gate_up + intermediate_, 2 * intermediate_},
                 static_cast<int32_t>(intermediate_),
                 product,
                 begin,
                 end);
  });
  down_.Forward(product, tokens, out);
}

}  // namespace weir::engine
