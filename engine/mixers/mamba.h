// SPDX-License-Identifier: Apache-2.0
//
// Mamba-1 (arXiv 2312.00752) as the checkpoints of transformers and of
// flash-linear-attention have it:
//
//   x, z = W_in u               x = silu(conv(x))
//   r, B, C = W_x x             Falcon-Mamba: each divided by its RMS
//   dt = softplus(W_dt r + b)   per channel
//   S <- exp(-exp(A_log) dt) S + dt x B^T;  y = S C + D x
//   out = W_out (y silu(z))
//
// Threads: as mixer.h.
#pragma once

#include <cstdint>
#include <vector>

#include "engine/mixers/decoder_spec.h"
#include "engine/mixers/mixer.h"

namespace weir::engine {

struct MambaShape {
  int32_t hidden = 0;
  int32_t inner = 0;      // channels
  int32_t state_dim = 0;  // N
  int32_t dt_rank = 0;
  int32_t conv_width = 0;
  bool conv_bias = false;
  bool bias = false;    // of W_in and W_out
  float mixer_eps = 0;  // of the norms of r, B and C; 0: there are none
};

class Mamba final : public Mixer {
 public:
  explicit Mamba(const MambaShape& shape);

  const MambaShape& shape() const { return shape_; }
  // Rows of x, then z.
  const Linear& in_projection() const { return in_projection_; }
  const Linear& dt_projection() const { return dt_projection_; }
  const Linear& out_projection() const { return out_projection_; }
  // [dt_rank, inner] of r, then [2 N, inner] of B and C.
  const Buffer& selection() const { return selection_; }
  const Buffer& conv() const { return conv_; }            // [W, inner]
  const Buffer& conv_bias() const { return conv_bias_; }  // [inner], or empty
  const Buffer& dt_bias() const { return dt_bias_; }      // [inner]
  // [N, inner], SelectiveScanArgs' rate. REQUIRES: Prepare was called.
  const Buffer& rate() const { return rate_; }
  const Buffer& d() const { return d_; }  // [inner]

  std::vector<WeightSlot> Weights() override;
  std::vector<StateTensor> State() const override;
  int64_t workspace_floats() const override;
  void Prepare() override;
  void Forward(const MixerInput& input,
               float* workspace,
               float* out) const override;

 private:
  // r and B, C of x [tokens, inner].
  void Select(const float* x, int64_t tokens, float* r, float* bc) const;

  const MambaShape shape_;
  Linear in_projection_;  // x, then z
  Linear dt_projection_;
  Linear out_projection_;
  Buffer selection_;  // W_x: [dt_rank, inner] of r, then [2 N, inner]
  Buffer conv_;       // [W, inner]
  Buffer conv_bias_;  // [inner]
  Buffer dt_bias_;    // [inner]
  Buffer rate_;       // [N, inner]; A_log until Prepare
  Buffer d_;          // [inner]
};

// transformers' model_type mamba, flash-linear-attention's mamba, and
// transformers' falcon_mamba.
void ReadMamba(ConfigFields& fields, DecoderSpec& spec);
void ReadFlaMamba(ConfigFields& fields, DecoderSpec& spec);
void ReadFalconMamba(ConfigFields& fields, DecoderSpec& spec);

}  // namespace weir::engine
