// SPDX-License-Identifier: Apache-2.0
//
// Lightning Attention (arXiv 2401.04658) with the layer that MiniMax-Text-01
// (arXiv 2501.08313) has around it, D a head's width:
//
//   q, k, v = silu(W x), a head's three next to each other
//   S <- e^-slope S + k v^T;  o = S^T q
//   out = W_o (sigmoid(W_g x) * rmsnorm(o) * w), the norm over all heads
//
// Layer l of L and head h of H decay by one of two conventions:
//
//   MiniMax                  slope = 2^(-8 (h+1) / H) (1 - l / (L-1 + 1e-5)
//                                    + 1e-5)
//   flash-linear-attention   slope = 8 h / H (1 - l / L), and q times D^-1/2
//
// Threads: as mixer.h.
#pragma once

#include <cstdint>
#include <vector>

#include "engine/mixers/decoder_spec.h"
#include "engine/mixers/mixer.h"

namespace weir::engine {

enum class Slopes { kMiniMax, kFla };

struct LightningShape {
  int32_t hidden = 0;
  int32_t heads = 0;
  int32_t head_dim = 0;  // D
  Slopes slopes = Slopes::kMiniMax;
  int32_t layers = 0;  // L
};

class Lightning final : public Mixer {
 public:
  Lightning(const LightningShape& shape, int32_t layer);

  const LightningShape& shape() const { return shape_; }
  // Rows of q, k, v and the gate, [heads, D] each, once Prepare was called.
  const Linear& projection() const { return projection_; }
  const Linear& out_projection() const { return out_projection_; }
  const Buffer& norm() const { return norm_; }  // [heads, D]
  float norm_eps() const;
  const std::vector<float>& log2_decay() const { return log2_decay_; }

  std::vector<WeightSlot> Weights() override;
  std::vector<StateTensor> State() const override;
  int64_t workspace_floats() const override;
  void Prepare() override;
  void Forward(const MixerInput& input,
               float* workspace,
               float* out) const override;

 private:
  int64_t width() const { return int64_t{shape_.heads} * shape_.head_dim; }

  const LightningShape shape_;
  // Rows [3, heads, D] of q, k and v, as the checkpoint has them [heads, 3, D]
  // until Prepare, then the gate's.
  Linear projection_;
  Linear out_projection_;
  Buffer norm_;                    // [heads, D]
  std::vector<float> log2_decay_;  // [heads]
};

// Our own model_type weir_lightning: docs/checkpoints.md.
void ReadLightning(ConfigFields& fields, DecoderSpec& spec);

}  // namespace weir::engine
