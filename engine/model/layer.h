// SPDX-License-Identifier: Apache-2.0
//
// What a decoder is made of: parts, each behind a norm of the residual stream
// and added to it.
//
// Threads: as mixer.h.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "engine/kernels/pointwise.h"
#include "engine/mixers/buffer.h"
#include "engine/mixers/decoder_spec.h"
#include "engine/mixers/mixer.h"

namespace weir::engine {

// A norm over `hidden` channels and its weights.
class NormWeights {
 public:
  NormWeights(const NormShape& shape, int64_t hidden);

  // `name` and ".weight", ".bias".
  std::vector<WeightSlot> Weights(const std::string& name);
  NormArgs Args() const;

 private:
  NormShape shape_;
  int64_t hidden_;
  Buffer weight_;
  Buffer bias_;
};

struct LayerPart {
  NormWeights norm;
  std::unique_ptr<Mixer> mixer;
  size_t state = 0;       // its first tensor in the pool
  std::string norm_name;  // full, without ".weight"
  std::string prefix;     // full: of its tensors, of its state's names

  std::vector<WeightSlot> Weights();
};

// The parts of layer `index`, with the full names of their tensors.
std::vector<LayerPart> MakeLayer(const DecoderSpec& spec, int32_t index);

}  // namespace weir::engine
