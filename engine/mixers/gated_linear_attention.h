// SPDX-License-Identifier: Apache-2.0
//
// GLA (arXiv 2312.06635) as flash-linear-attention's checkpoints have it:
//
//   q, k, v = W x, with silu(conv()) where there is one; q times K^-1/2
//   d = sigmoid(G_1 G_0 x + bias)^(1/16) per key channel
//   S <- Diag(d) S + k v^T;  o = S^T q
//   out = W_o (rmsnorm(o) * w * silu(g)), the gate where there is one
//
// Threads: as mixer.h.
#pragma once

#include <cstdint>
#include <vector>

#include "engine/mixers/decoder_spec.h"
#include "engine/mixers/head_output.h"
#include "engine/mixers/mixer.h"
#include "engine/mixers/qkv_projection.h"

namespace weir::engine {

struct GatedLinearAttentionShape {
  QkvShape qkv;
  bool gate = true;
  bool fused_norm = true;  // names the norm's weight
  float normalizer = 16;   // of the decay's logarithm
  float low = 0;           // its bound, below 0; 0: none
  float eps = 0;
};

class GatedLinearAttention final : public Mixer {
 public:
  explicit GatedLinearAttention(const GatedLinearAttentionShape& shape);

  const GatedLinearAttentionShape& shape() const { return shape_; }
  const QkvProjection& qkv() const { return qkv_; }
  const HeadOutput& output() const { return output_; }
  const Linear& decay_up() const { return decay_up_; }  // G_1
  // Columns of the projection: the gate's, and what G_1 takes.
  int64_t gate_column() const { return qkv_.mixed(); }
  int64_t decay_column() const { return qkv_.mixed() + down_column_; }

  std::vector<WeightSlot> Weights() override;
  std::vector<StateTensor> State() const override;
  int64_t workspace_floats() const override;
  void Forward(const MixerInput& input,
               float* workspace,
               float* out) const override;

 private:
  int64_t keys() const { return qkv_.keys(); }
  int64_t values() const { return qkv_.values(); }

  const GatedLinearAttentionShape shape_;
  // Columns behind q, k and v: the gate's, then G_0's.
  const int64_t down_column_;
  QkvProjection qkv_;
  Linear decay_up_;  // G_1
  HeadOutput output_;
};

// flash-linear-attention's model_type gla.
void ReadGatedLinearAttention(ConfigFields& fields, DecoderSpec& spec);

}  // namespace weir::engine
