// SPDX-License-Identifier: Apache-2.0
//
// Kimi Delta Attention (arXiv 2510.26692) as flash-linear-attention's
// checkpoints have it:
//
//   q, k, v = silu(conv(W x))      q, k of length one per head, q times K^-1/2
//   d = exp(-exp(A_log) softplus(f + dt_bias)) per key channel, or with a bound
//   d = exp(bound sigmoid(exp(A_log) (f + dt_bias))); f = F_1 F_0 x
//   S <- Diag(d) S;  S <- S + k (beta (v - S^T k))^T;  o = S^T q
//   out = W_o (rmsnorm(o) * w * sigmoid(G_1 G_0 x + bias))
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

struct KdaShape {
  QkvShape qkv;
  bool negative_eigenvalues = false;
  float bound = 0;  // of the logarithm of the decay; 0: none
  float eps = 0;
};

class Kda final : public Mixer {
 public:
  explicit Kda(const KdaShape& shape);

  const KdaShape& shape() const { return shape_; }
  const QkvProjection& qkv() const { return qkv_; }
  const HeadOutput& output() const { return output_; }
  const Linear& decay_up() const { return decay_up_; }  // F_1
  const Linear& gate_up() const { return gate_up_; }    // G_1
  const Buffer& a_log() const { return a_log_; }        // [heads]
  const Buffer& dt_bias() const { return dt_bias_; }    // [heads, K]
  // Columns of the projection: what F_1 and G_1 take, and b.
  int64_t decay_column() const { return qkv_.mixed(); }
  int64_t gate_column() const { return qkv_.mixed() + rank(); }
  int64_t b_column() const { return qkv_.mixed() + 2 * rank(); }

  std::vector<WeightSlot> Weights() override;
  std::vector<StateTensor> State() const override;
  int64_t workspace_floats() const override;
  void Forward(const MixerInput& input,
               float* workspace,
               float* out) const override;

 private:
  // Keys as many heads as there are values'.
  int64_t decays() const {
    return int64_t{shape_.qkv.heads} * shape_.qkv.key_dim;
  }
  int64_t values() const { return qkv_.values(); }
  int64_t rank() const { return shape_.qkv.value_dim; }

  const KdaShape shape_;
  // Columns behind q, k and v: F_0's, then G_0's, then b's.
  QkvProjection qkv_;
  Linear decay_up_;  // F_1
  Linear gate_up_;   // G_1
  HeadOutput output_;
  Buffer a_log_;    // [heads]
  Buffer dt_bias_;  // [heads, K]
};

// flash-linear-attention's model_type kda.
void ReadKda(ConfigFields& fields, DecoderSpec& spec);

}  // namespace weir::engine
