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
#include "engine/mixers/mixer.h"

namespace weir::engine {

struct GatedDeltaNetShape {
  int32_t hidden = 0;
  int32_t heads = 0;       // value heads
  int32_t key_heads = 0;   // divides heads
  int32_t key_dim = 0;     // K, of one head
  int32_t value_dim = 0;   // V, of one head
  int32_t conv_width = 0;  // 0: no convolution, the SiLU alone
  bool conv_bias = false;
  GateKind gate = GateKind::kSilu;  // kNone: a norm without a gate
  bool negative_eigenvalues = false;
  float eps = 0;
};

class GatedDeltaNet final : public Mixer {
 public:
  explicit GatedDeltaNet(const GatedDeltaNetShape& shape);

  const GatedDeltaNetShape& shape() const { return shape_; }

  std::vector<WeightSlot> Weights() override;
  std::vector<StateTensor> State() const override;
  int64_t workspace_floats() const override;
  void Forward(const MixerInput& input,
               float* workspace,
               float* out) const override;

 private:
  // Floats of one token in the workspace, by part.
  int64_t keys() const { return int64_t{shape_.key_heads} * shape_.key_dim; }
  int64_t values() const { return int64_t{shape_.heads} * shape_.value_dim; }
  int64_t mixed() const { return 2 * keys() + values(); }  // q, k, v

  void Activate(const Batch& batch,
                const float* projected,
                LayerState state,
                float* qkv) const;

  const GatedDeltaNetShape shape_;
  // Columns of the fused projection where a part begins: q, k and v lie first.
  const int64_t gate_column_;
  const int64_t a_column_;
  const int64_t b_column_;
  Linear projection_;
  Linear out_projection_;
  Buffer conv_;       // [W, mixed]
  Buffer conv_bias_;  // [mixed]
  Buffer a_log_;      // [heads]
  Buffer dt_bias_;    // [heads]
  Buffer norm_;       // [V]
};

// flash-linear-attention's model_type gated_deltanet.
void ReadGatedDeltaNet(ConfigFields& fields, DecoderSpec& spec);

}  // namespace weir::engine
