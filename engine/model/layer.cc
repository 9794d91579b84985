// SPDX-License-Identifier: Apache-2.0
#include "engine/model/layer.h"

#include <utility>

#include "absl/strings/str_cat.h"

namespace weir::engine {

NormWeights::NormWeights(const NormShape& shape, int64_t hidden)
    : shape_(shape),
      hidden_(hidden),
      weight_(hidden),
      bias_(shape.bias ? hidden : 0) {}

std::vector<WeightSlot> NormWeights::Weights(const std::string& name) {
  std::vector<WeightSlot> slots = {
      {.name = name + ".weight", .shape = {hidden_}, .buffer = &weight_}};
  if (shape_.bias) {
    slots.push_back(
        {.name = name + ".bias", .shape = {hidden_}, .buffer = &bias_});
  }
  return slots;
}

NormArgs NormWeights::Args() const {
  return {.width = static_cast<int32_t>(hidden_),
          .weight = weight_.data(),
          .bias = bias_.data(),
          .eps = shape_.eps,
          .centered = shape_.centered};
}

std::vector<WeightSlot> LayerPart::Weights() {
  std::vector<WeightSlot> slots = norm.Weights(norm_name);
  for (WeightSlot& slot : mixer->Weights()) {
    slot.name = prefix + slot.name;
    slots.push_back(std::move(slot));
  }
  return slots;
}

std::vector<LayerPart> MakeLayer(const DecoderSpec& spec, int32_t index) {
  const std::string layer = absl::StrCat(spec.names.layers, index, ".");
  std::vector<LayerPart> parts;
  for (Sublayer& sublayer : spec.make_layer(index)) {
    parts.push_back({.norm = NormWeights(spec.norm, spec.hidden),
                     .mixer = std::move(sublayer.part),
                     .norm_name = layer + sublayer.norm,
                     .prefix = layer + sublayer.prefix});
  }
  return parts;
}

}  // namespace weir::engine
