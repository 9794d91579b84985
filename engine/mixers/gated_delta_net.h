// SPDX-License-Identifier: Apache-2.0
//
// Gated DeltaNet (arXiv 2412.06464) as flash-linear-attention's checkpoints
// have it:
//
//   q, k, v = silu(conv(W x))      q, k of length one per head, q times K^-1/2
//   d = exp(-exp(A_log) softplus(a + dt_bias)), beta = sigmoid(b), per head
//   S <- d S;  S <- S + k (beta (v - S^T k))^T;  o = S^T q
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

struct GatedDeltaNetShape {
  QkvShape qkv;
  GateKind gate = GateKind::kSilu;  // kNone: a norm without a gate
  bool negative_eigenvalues = false;
  float eps = 0;
};

class GatedDeltaNet final : public Mixer {
 public:
  explicit GatedDeltaNet(const GatedDeltaNetShape& shape);

  const GatedDeltaNetShape& shape() const { return shape_; }
  const QkvProjection& qkv() const { return qkv_; }
  const HeadOutput& output() const { return output_; }
  const Buffer& a_log() const { return a_log_; }      // [heads]
  const Buffer& dt_bias() const { return dt_bias_; }  // [heads]
  // Columns of the projection.
  int64_t gate_column() const { return qkv_.mixed(); }
  int64_t a_column() const { return qkv_.mixed() + a_column_; }
  int64_t b_column() const { return qkv_.mixed() + b_column_; }

  std::vector<WeightSlot> Weights() override;
  std::vector<StateTensor> State() const override;
  int64_t workspace_floats() const override;
  void Forward(const MixerInput& input,
               float* workspace,
               float* out) const override;

 private:
  int64_t values() const { return qkv_.values(); }

  const GatedDeltaNetShape shape_;
  // Columns behind q, k and v: the gate's, then a's, then b's.
  const int64_t a_column_;
  const int64_t b_column_;
  QkvProjection qkv_;
  HeadOutput output_;
  Buffer a_log_;    // [heads]
  Buffer dt_bias_;  // [heads]
};

// flash-linear-attention's model_type gated_deltanet.
void ReadGatedDeltaNet(ConfigFields& fields, DecoderSpec& spec);

}  // namespace weir::engine
