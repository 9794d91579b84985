// SPDX-License-Identifier: Apache-2.0
//
// The Linear Transformer's attention (arXiv 2006.16236) as fast-transformers
// computes it, in a layout of our own (docs/checkpoints.md):
//
//   q, k = phi(W x + b), v = W x + b;  phi is elu + 1, and q is not scaled
//   S <- S + k v^T,  z <- z + k
//   o = S^T q / (q.z + eps), or S^T q alone
//   out = W_o o + b
//
// Threads: as mixer.h.
#pragma once

#include <cstdint>
#include <vector>

#include "engine/mixers/decoder_spec.h"
#include "engine/mixers/mixer.h"
#include "engine/mixers/plain_qkv.h"

namespace weir::engine {

struct LinearTransformerShape {
  PlainQkvShape qkv;
  bool normalized = true;
  float eps = 0;  // of q.z
};

class LinearTransformer final : public Mixer {
 public:
  explicit LinearTransformer(const LinearTransformerShape& shape);

  const LinearTransformerShape& shape() const { return shape_; }
  const PlainQkv& qkv() const { return qkv_; }

  std::vector<WeightSlot> Weights() override { return qkv_.Weights(); }
  std::vector<StateTensor> State() const override;
  int64_t workspace_floats() const override;
  void Forward(const MixerInput& input,
               float* workspace,
               float* out) const override;

 private:
  const LinearTransformerShape shape_;
  PlainQkv qkv_;
  const std::vector<float> no_decay_;  // [heads]
};

// Our own model_type weir_linear_transformer.
void ReadLinearTransformer(ConfigFields& fields, DecoderSpec& spec);

}  // namespace weir::engine
