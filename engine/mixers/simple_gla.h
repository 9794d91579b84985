// SPDX-License-Identifier: Apache-2.0
//
// GLA with one decay a head (arXiv 2312.06635, simplified; the gate of Mamba-2
// and mLSTM) as flash-linear-attention's layer has it:
//
//   q, k, v = silu(conv(W x)), or W x without a convolution; q times K^-1/2
//   d = sigmoid(gk x + bias)^(1/16) per head
//   S <- d S + k v^T;  o = S^T q
//   out = W_o (rmsnorm(o) * w * act(g))
//
// Threads: as mixer.h.
#pragma once

#include <cstdint>
#include <vector>

#include "engine/kernels/pointwise.h"
#include "engine/mixers/decoder_spec.h"
#include "engine/mixers/head_output.h"
#include "engine/mixers/mixer.h"
#include "engine/mixers/qkv_projection.h"

namespace weir::engine {

struct SimpleGlaShape {
  QkvShape qkv;
  GateKind gate = GateKind::kSilu;
  bool fused_norm = true;  // names the norm's weight
  float normalizer = 16;   // of the decay's logarithm
  float eps = 0;
};

class SimpleGla final : public Mixer {
 public:
  explicit SimpleGla(const SimpleGlaShape& shape);

  const SimpleGlaShape& shape() const { return shape_; }
  const QkvProjection& qkv() const { return qkv_; }
  const HeadOutput& output() const { return output_; }
  const Buffer& decay_bias() const { return decay_bias_; }  // [heads]
  // Columns of the projection.
  int64_t gate_column() const { return qkv_.mixed(); }
  int64_t decay_column() const { return qkv_.mixed() + values(); }

  std::vector<WeightSlot> Weights() override;
  std::vector<StateTensor> State() const override;
  int64_t workspace_floats() const override;
  void Forward(const MixerInput& input,
               float* workspace,
               float* out) const override;

 private:
  int64_t values() const { return qkv_.values(); }
  void Decays(TokenRows gk, int64_t tokens, float* log2_decay) const;

  const SimpleGlaShape shape_;
  // Columns behind q, k and v: the gate's, then gk's.
  QkvProjection qkv_;
  HeadOutput output_;
  Buffer decay_bias_;  // [heads]
};

// Our own model_type weir_simple_gla: docs/checkpoints.md.
void ReadSimpleGla(ConfigFields& fields, DecoderSpec& spec);

}  // namespace weir::engine
