// SPDX-License-Identifier: Apache-2.0
//
// Mamba-2 (arXiv 2405.21060) as the checkpoints of transformers, of
// flash-linear-attention and of its authors have it:
//
//   z, xBC, dt = W_in u             x, B, C = silu(conv(xBC))
//   dt = clamp(softplus(dt + dt_bias), dt_min, dt_max), per head
//   S <- exp(-exp(A_log) dt) S + B (dt x)^T;  y = S^T C + D x
//   out = W_out (rmsnorm(y silu(z)) w), or W_out (rmsnorm(y) w silu(z))
//
// The clamp holds in prefill and decode alike. transformers' norm spans the
// whole inner width whatever the number of groups of B and C; that of the
// others is one a group.
//
// Threads: as mixer.h.
#pragma once

#include <cstdint>
#include <vector>

#include "engine/kernels/pointwise.h"
#include "engine/mixers/decoder_spec.h"
#include "engine/mixers/mixer.h"

namespace weir::engine {

struct Mamba2Shape {
  int32_t hidden = 0;
  int32_t heads = 0;
  int32_t head_dim = 0;   // P
  int32_t groups = 0;     // of B and C; divides heads
  int32_t state_dim = 0;  // N
  int32_t conv_width = 0;
  bool conv_bias = false;
  bool bias = false;  // of W_in and W_out
  float dt_min = 0;
  float dt_max = 0;  // may be infinite
  int32_t norm_groups = 1;
  GateOrder order = GateOrder::kBeforeNorm;
  float eps = 0;
};

class Mamba2 final : public Mixer {
 public:
  explicit Mamba2(const Mamba2Shape& shape);

  const Mamba2Shape& shape() const { return shape_; }
  // Rows of z, then x, B, C, then dt.
  const Linear& in_projection() const { return in_projection_; }
  const Linear& out_projection() const { return out_projection_; }
  const Buffer& conv() const { return conv_; }            // [W, mixed]
  const Buffer& conv_bias() const { return conv_bias_; }  // [mixed], or empty
  const Buffer& a_log() const { return a_log_; }          // [heads]
  const Buffer& d() const { return d_; }                  // [heads]
  const Buffer& dt_bias() const { return dt_bias_; }      // [heads]
  const Buffer& norm() const { return norm_; }            // [inner]

  std::vector<WeightSlot> Weights() override;
  std::vector<StateTensor> State() const override;
  int64_t workspace_floats() const override;
  void Forward(const MixerInput& input,
               float* workspace,
               float* out) const override;

 private:
  // Floats of one token in the workspace, by part.
  int64_t inner() const { return int64_t{shape_.heads} * shape_.head_dim; }
  int64_t group_floats() const {
    return int64_t{shape_.groups} * shape_.state_dim;
  }
  int64_t mixed() const { return inner() + 2 * group_floats(); }  // x, B, C

  const Mamba2Shape shape_;
  Linear in_projection_;  // z, then x, B, C, then dt
  Linear out_projection_;
  Buffer conv_;       // [W, mixed]
  Buffer conv_bias_;  // [mixed]
  Buffer a_log_;      // [heads]
  Buffer d_;          // [heads]
  Buffer dt_bias_;    // [heads]
  Buffer norm_;       // [inner]
};

// transformers' model_type mamba2, and flash-linear-attention's.
void ReadMamba2(ConfigFields& fields, DecoderSpec& spec);
void ReadFlaMamba2(ConfigFields& fields, DecoderSpec& spec);

// The authors' own format, which has no model_type: d_model, n_layer, ssm_cfg.
bool IsOfficialMamba2(const ConfigFields& fields);
void ReadOfficialMamba2(ConfigFields& fields, DecoderSpec& spec);

}  // namespace weir::engine
