// SPDX-License-Identifier: Apache-2.0
//
// RetNet's retention (arXiv 2307.08621) as flash-linear-attention's checkpoints
// have it:
//
//   q, k, v = W x, with silu(conv()) where there is one; q times K^-1/2
//   q, k turned by the angles of their position (theta 10,000, halves)
//   S <- (1 - 2^(-5-h)) S + k v^T for head h;  o = S^T q
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

struct RetentionShape {
  QkvShape qkv;
  bool gate = true;
  bool fused_norm = true;  // names the norm's weight
  float eps = 0;
};

class Retention final : public Mixer {
 public:
  explicit Retention(const RetentionShape& shape);

  const RetentionShape& shape() const { return shape_; }
  const QkvProjection& qkv() const { return qkv_; }
  const HeadOutput& output() const { return output_; }
  const std::vector<float>& log2_decay() const { return log2_decay_; }
  const std::vector<double>& angle_per_token() const {  // [K / 2]
    return angle_per_token_;
  }
  int64_t gate_column() const { return qkv_.mixed(); }  // of the projection

  std::vector<WeightSlot> Weights() override;
  std::vector<StateTensor> State() const override;
  int64_t workspace_floats() const override;
  void Forward(const MixerInput& input,
               float* workspace,
               float* out) const override;

 private:
  int64_t values() const { return qkv_.values(); }
  // Turns q and k, and moves the positions of the rows' slots on.
  void Turn(const MixerInput& input, const QkvProjection::Result& qkv) const;
  void TurnToken(uint64_t position, float* q, float* k) const;

  const RetentionShape shape_;
  QkvProjection qkv_;
  HeadOutput output_;
  std::vector<float> log2_decay_;        // [heads]
  std::vector<double> angle_per_token_;  // [K / 2]
};

// flash-linear-attention's model_type retnet.
void ReadRetention(ConfigFields& fields, DecoderSpec& spec);

}  // namespace weir::engine
