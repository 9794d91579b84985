// SPDX-License-Identifier: Apache-2.0
//
// The Linear Transformer's attention (arXiv 2006.16236) as flash-linear-
// attention's checkpoints have it:
//
//   q, k = phi(W x), v = W x;  phi is elu + 1, relu, or nothing; q times K^-1/2
//   S <- S + k v^T;  o = S^T q, over q.z + 1e-10 with z the sum of the keys
//     where the configuration asks for it
//   out = W_o (rmsnorm(o) * w)
//
// Threads: as mixer.h.
#pragma once

#include <cstdint>
#include <vector>

#include "engine/kernels/activation.h"
#include "engine/mixers/decoder_spec.h"
#include "engine/mixers/mixer.h"
#include "engine/mixers/qkv_projection.h"

namespace weir::engine {

struct LinearAttentionShape {
  QkvShape qkv;
  Activation feature = Activation::kNone;
  bool normalized = false;
  float eps = 0;
};

class LinearAttention final : public Mixer {
 public:
  explicit LinearAttention(const LinearAttentionShape& shape);

  const LinearAttentionShape& shape() const { return shape_; }

  std::vector<WeightSlot> Weights() override;
  std::vector<StateTensor> State() const override;
  int64_t workspace_floats() const override;
  void Forward(const MixerInput& input,
               float* workspace,
               float* out) const override;

 private:
  int64_t values() const { return qkv_.values(); }
  void Normalize(const MixerInput& input,
                 const QkvProjection::Result& qkv,
                 float* sums,
                 float* mixed_out) const;

  const LinearAttentionShape shape_;
  QkvProjection qkv_;
  Linear out_projection_;
  Buffer norm_;                        // [V]
  const std::vector<float> no_decay_;  // [heads]
  const std::vector<float> ones_;      // [heads]
};

// flash-linear-attention's model_type linear_attn.
void ReadLinearAttention(ConfigFields& fields, DecoderSpec& spec);

}  // namespace weir::engine
