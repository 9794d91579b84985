// SPDX-License-Identifier: Apache-2.0
//
// RWKV-7's time mix (arXiv 2503.14456) as flash-linear-attention's checkpoints
// have it. With x_* the input shifted towards that of the token before:
//
//   r, k, v = W x_r, W x_k, W x_v         w, rate, g low-rank in x_w, x_a, x_g
//   v <- v + (v_first - v) sigmoid(low-rank x_v)      all layers but the first
//   d = exp(-e^-1/2 sigmoid(w)),  i = sigmoid(rate),  u = k k_k / |k k_k|
//   k <- k (1 + (i - 1) k_a)
//   S <- Diag(d) S - (u i) (u^T S) + k v^T;  o = S^T r
//   out = W_o ((groupnorm(o) + (sum r k r_k) v) g)
//
// The values of the first layer reach the others through MixerInput::shared.
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

struct Rwkv7Shape {
  int32_t hidden = 0;  // of which each head has key_dim
  int32_t heads = 0;
  int32_t key_dim = 0;    // K, of one head
  int32_t value_dim = 0;  // V, of one head
  int32_t decay_rank = 0;
  int32_t rate_rank = 0;
  int32_t value_rank = 0;
  int32_t gate_rank = 0;
  bool first = false;    // the layer whose values the others lean on
  float length_eps = 0;  // beside the squares of k k_k
  float eps = 0;         // of the group norm
};

class Rwkv7 final : public Mixer {
 public:
  explicit Rwkv7(const Rwkv7Shape& shape);

  // Of shift()'s mixes.
  enum Mix { kR, kW, kK, kV, kA, kG, kMixes };

  const Rwkv7Shape& shape() const { return shape_; }
  const TokenShift& shift() const { return shift_; }
  const Linear& r_projection() const { return r_projection_; }
  const Linear& k_projection() const { return k_projection_; }
  const Linear& v_projection() const { return v_projection_; }
  const Linear& out_projection() const { return out_projection_; }
  const LowRank& decay() const { return decay_; }
  const LowRank& rate() const { return rate_; }
  const LowRank& value_mix() const { return value_mix_; }
  const LowRank& gate() const { return gate_; }
  const Buffer& k_k() const { return k_k_; }
  const Buffer& k_a() const { return k_a_; }
  const Buffer& r_k() const { return r_k_; }
  const Buffer& norm() const { return norm_; }
  const Buffer& norm_bias() const { return norm_bias_; }

  std::vector<WeightSlot> Weights() override;
  std::vector<StateTensor> State() const override;
  int64_t workspace_floats() const override;
  int64_t shared_floats() const override { return values(); }
  void Forward(const MixerInput& input,
               float* workspace,
               float* out) const override;

 private:
  // Parts of the workspace, [tokens, ...] each.
  struct Parts {
    float* delta;   // hidden
    float* mixed;   // hidden; a once the projections are done
    float* r;       // keys
    float* w;       // keys; then log2 of the decay
    float* k;       // keys
    float* rate;    // keys; then b
    float* v;       // values
    float* g;       // values
    float* y;       // values
    float* middle;  // the largest rank
  };

  int64_t keys() const { return int64_t{shape_.heads} * shape_.key_dim; }
  int64_t values() const { return int64_t{shape_.heads} * shape_.value_dim; }
  int64_t middle() const;
  Parts PartsOf(float* workspace, int64_t tokens) const;
  void Project(const MixerInput& input, const Parts& parts) const;
  void MixValues(const MixerInput& input, const Parts& parts) const;
  void Recur(const MixerInput& input, const Parts& parts) const;
  void Finish(int64_t tokens, const Parts& parts) const;

  const Rwkv7Shape shape_;
  TokenShift shift_;
  Linear r_projection_;
  Linear k_projection_;
  Linear v_projection_;
  Linear out_projection_;
  LowRank decay_;
  LowRank rate_;
  LowRank value_mix_;  // not in the first layer
  LowRank gate_;
  Buffer k_k_;        // [keys]
  Buffer k_a_;        // [keys]
  Buffer r_k_;        // [keys]
  Buffer norm_;       // [values]
  Buffer norm_bias_;  // [values]
};

// flash-linear-attention's model_type rwkv7.
void ReadRwkv7(ConfigFields& fields, DecoderSpec& spec);

}  // namespace weir::engine
