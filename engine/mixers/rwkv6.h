// SPDX-License-Identifier: Apache-2.0
//
// RWKV-6's time mix (arXiv 2404.05892) as flash-linear-attention's checkpoints
// have it. With delta the input of the token before less the token's, and n
// one of r, w, k, v, g:
//
//   s_n = A_n tanh(B_n (x + delta mu)) + bias_n,  x_n = x + delta s_n
//   r, k, v, g = W x_n                     w low-rank in x_w
//   d = exp(-exp(w))
//   o = S^T r + (r . (bonus k)) v;  S <- Diag(d) S + k v^T
//   out = W_o (groupnorm(o) silu(g))
//
// Threads: as mixer.h.
#pragma once

#include <cstdint>
#include <vector>

#include "engine/mixers/decoder_spec.h"
#include "engine/mixers/low_rank.h"
#include "engine/mixers/mixer.h"
#include "engine/mixers/token_shift.h"

namespace weir::engine {

struct Rwkv6Shape {
  int32_t hidden = 0;
  int32_t heads = 0;
  int32_t key_dim = 0;    // K, of one head
  int32_t value_dim = 0;  // V, of one head
  int32_t mix_rank = 0;   // of each of the five mixes
  int32_t decay_rank = 0;
  float eps = 0;  // of the group norm
};

class Rwkv6 final : public Mixer {
 public:
  explicit Rwkv6(const Rwkv6Shape& shape);

  // Of shift()'s mixes, in the order in which the checkpoint holds their parts;
  // mu follows them.
  enum Mix { kR, kW, kK, kV, kG, kMixes, kMu = kMixes };

  const Rwkv6Shape& shape() const { return shape_; }
  const TokenShift& shift() const { return shift_; }
  const Linear& mix_down() const { return mix_down_; }
  // REQUIRES: Prepare was called.
  const Buffer& mix_up() const { return mix_up_; }
  const Linear& r_projection() const { return r_projection_; }
  const Linear& k_projection() const { return k_projection_; }
  const Linear& v_projection() const { return v_projection_; }
  const Linear& g_projection() const { return g_projection_; }
  const Linear& out_projection() const { return out_projection_; }
  const LowRank& decay() const { return decay_; }
  const Buffer& bonus() const { return bonus_; }
  const Buffer& norm() const { return norm_; }
  const Buffer& norm_bias() const { return norm_bias_; }

  std::vector<WeightSlot> Weights() override;
  std::vector<StateTensor> State() const override;
  int64_t workspace_floats() const override;
  void Prepare() override;
  void Forward(const MixerInput& input,
               float* workspace,
               float* out) const override;

 private:
  // Parts of the workspace, [tokens, ...] each.
  struct Parts {
    float* delta;   // hidden
    float* mixed;   // hidden
    float* middle;  // five times mix_rank
    float* narrow;  // the larger rank
    float* r;       // keys
    float* w;       // keys; then log2 of the decay
    float* k;       // keys
    float* v;       // values
    float* g;       // values
    float* y;       // values
  };

  int64_t keys() const { return int64_t{shape_.heads} * shape_.key_dim; }
  int64_t values() const { return int64_t{shape_.heads} * shape_.value_dim; }
  int64_t narrow() const;
  Parts PartsOf(float* workspace, int64_t tokens) const;
  void Project(const MixerInput& input, const Parts& parts) const;
  void MixDown(const MixerInput& input, const Parts& parts) const;
  // parts.mixed = the input of projection `mix`.
  void MixUp(const MixerInput& input, int32_t mix, const Parts& parts) const;
  void Recur(const MixerInput& input, const Parts& parts) const;

  const Rwkv6Shape shape_;
  TokenShift shift_;  // the five biases, then mu
  Linear mix_down_;   // B, five times mix_rank rows
  Buffer mix_up_;     // A by mix, [mixes][hidden, mix_rank]
  Linear r_projection_;
  Linear k_projection_;
  Linear v_projection_;
  Linear g_projection_;
  Linear out_projection_;
  LowRank decay_;
  Buffer bonus_;      // [keys]
  Buffer norm_;       // [values]
  Buffer norm_bias_;  // [values]
};

// flash-linear-attention's model_type rwkv6.
void ReadRwkv6(ConfigFields& fields, DecoderSpec& spec);

}  // namespace weir::engine
