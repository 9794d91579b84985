// SPDX-License-Identifier: Apache-2.0
#include "engine/model/blocks.h"

#include <utility>

#include "absl/strings/str_cat.h"
#include "engine/kernels/pointwise.h"
#include "engine/mixers/parallel.h"

namespace weir::engine {

SwiGlu::SwiGlu(int64_t hidden, int64_t intermediate)
    : intermediate_(intermediate),
      gate_up_(hidden, 2 * intermediate, false),
      down_(intermediate, hidden, false) {}

std::vector<WeightSlot> SwiGlu::Weights() {
  return {gate_up_.Rows("gate_proj.weight", 0, intermediate_),
          gate_up_.Rows("up_proj.weight", intermediate_, intermediate_),
          down_.Rows("down_proj.weight", 0, down_.outputs())};
}

void SwiGlu::Forward(const float* x,
                     int64_t tokens,
                     float* workspace,
                     float* out) const {
  float* gate_up = workspace;
  float* product = gate_up + tokens * 2 * intermediate_;
  gate_up_.Forward(x, tokens, gate_up);
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

std::vector<WeightSlot> LayerWeights(Layer& layer,
                                     int32_t index,
                                     int64_t hidden,
                                     const LayerNames& names) {
  const std::string prefix = absl::StrCat(names.root, "layers.", index, ".");
  std::vector<WeightSlot> slots;
  const auto add = [&](const std::string& part, WeightSlot slot) {
    slot.name = absl::StrCat(prefix, part, slot.name);
    slots.push_back(std::move(slot));
  };
  add(names.norm, {.name = "", .shape = {hidden}, .buffer = &layer.norm});
  for (WeightSlot& slot : layer.mixer->Weights()) {
    add(names.mixer, std::move(slot));
  }
  if (layer.feed_forward == nullptr) return slots;
  add("mlp_norm.weight",
      {.name = "", .shape = {hidden}, .buffer = &layer.feed_forward_norm});
  for (WeightSlot& slot : layer.feed_forward->Weights()) {
    add("mlp.", std::move(slot));
  }
  return slots;
}

}  // namespace weir::engine
