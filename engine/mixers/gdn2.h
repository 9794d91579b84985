// SPDX-License-Identifier: Apache-2.0
//
// Gated DeltaNet 2 (arXiv 2605.22791) as flash-linear-attention's layer has it:
// the delta rule with a gate for what is erased, a key channel each, and one
// for what is written, a value channel each.
//
//   q, k, v = silu(conv(W x))      q, k of length one per head, q times K^-1/2
//   d = exp(-exp(A_log) softplus(f + dt_bias)) per key channel; f = F_1 F_0 x
//   e = sigmoid(b) per key channel, or twice that; w' = sigmoid(w)
//   S <- Diag(d) S;  S <- S + k (w' * v - S^T (e * k))^T;  o = S^T q
//   out = W_o (rmsnorm(o) * w * sigmoid(G_1 G_0 x + bias))
//
// With e and w' the same number for all channels it is KDA (kda.h).
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

struct Gdn2Shape {
  QkvShape qkv;
  bool negative_eigenvalues = false;
  float eps = 0;
};

class Gdn2 final : public Mixer {
 public:
  explicit Gdn2(const Gdn2Shape& shape);

  const Gdn2Shape& shape() const { return shape_; }
  const QkvProjection& qkv() const { return qkv_; }
  const HeadOutput& output() const { return output_; }
  const Linear& decay_up() const { return decay_up_; }  // F_1
  const Linear& gate_up() const { return gate_up_; }    // G_1
  const Buffer& a_log() const { return a_log_; }        // [key_heads]
  const Buffer& dt_bias() const { return dt_bias_; }    // [key_heads, K]
  // Columns of the projection: what F_1 and G_1 take, then b and w.
  int64_t decay_column() const { return qkv_.mixed(); }
  int64_t gate_column() const { return qkv_.mixed() + rank(); }
  int64_t b_column() const { return qkv_.mixed() + b_column_; }
  int64_t w_column() const { return qkv_.mixed() + w_column_; }

  std::vector<WeightSlot> Weights() override;
  std::vector<StateTensor> State() const override;
  int64_t workspace_floats() const override;
  void Forward(const MixerInput& input,
               float* workspace,
               float* out) const override;

 private:
  int64_t keys() const { return qkv_.keys(); }
  int64_t values() const { return qkv_.values(); }
  int64_t rank() const { return shape_.qkv.value_dim; }
  // Channels of a decay, keys as many heads as there are values'.
  int64_t decays() const {
    return int64_t{shape_.qkv.heads} * shape_.qkv.key_dim;
  }

  const Gdn2Shape shape_;
  // Columns behind q, k and v: F_0's, then G_0's, then b's, then w's.
  const int64_t b_column_;
  const int64_t w_column_;
  QkvProjection qkv_;
  Linear decay_up_;  // F_1
  Linear gate_up_;   // G_1
  HeadOutput output_;
  Buffer a_log_;    // [key_heads]
  Buffer dt_bias_;  // [key_heads, K]
};

// Our own model_type weir_gdn2: docs/checkpoints.md.
void ReadGdn2(ConfigFields& fields, DecoderSpec& spec);

}  // namespace weir::engine
