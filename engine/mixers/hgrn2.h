// SPDX-License-Identifier: Apache-2.0
//
// HGRN2 (arXiv 2404.07904) as flash-linear-attention's checkpoints have it:
//
//   q = silu(W_q x), f = W_f x, v = W_i x; q times K^-1/2
//   d = low + (1 - low) sigmoid(f) per key channel, k = 1 - d
//   S <- Diag(d) S + k v^T;  o = S^T q
//   out = W_o (rmsnorm(o) * w), the norm over all heads
//
// Layer n's `low` is what a softmax over the layers gives those from 1 to n: a
// tensor of the whole model.
//
// Threads: as mixer.h.
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "engine/mixers/decoder_spec.h"
#include "engine/mixers/mixer.h"

namespace weir::engine {

struct Hgrn2Shape {
  int32_t hidden = 0;
  int32_t heads = 0;
  int32_t key_dim = 0;    // K, of one head
  int32_t value_dim = 0;  // V, of one head
  int32_t layer = 0;
  int32_t layers = 0;
  float eps = 0;
};

class Hgrn2 final : public Mixer {
 public:
  // `bounds` [layers, heads K], read before Prepare; null: low is 0.
  Hgrn2(const Hgrn2Shape& shape, std::shared_ptr<Buffer> bounds);

  const Hgrn2Shape& shape() const { return shape_; }
  // Rows of q, f and v.
  const Linear& projection() const { return projection_; }
  const Linear& out_projection() const { return out_projection_; }
  const Buffer& norm() const { return norm_; }  // [heads, V]
  // [heads, K], or empty: 0; once Prepare was called.
  const std::vector<float>& low() const { return low_; }

  std::vector<WeightSlot> Weights() override;
  std::vector<StateTensor> State() const override;
  int64_t workspace_floats() const override;
  void Prepare() override;
  void Forward(const MixerInput& input,
               float* workspace,
               float* out) const override;

 private:
  int64_t keys() const { return int64_t{shape_.heads} * shape_.key_dim; }
  int64_t values() const { return int64_t{shape_.heads} * shape_.value_dim; }

  const Hgrn2Shape shape_;
  const std::shared_ptr<Buffer> bounds_;
  std::vector<float> low_;  // [heads, K]; empty: 0
  Linear projection_;       // q, then f, then v
  Linear out_projection_;
  Buffer norm_;  // [heads, V]
};

// flash-linear-attention's model_type hgrn2.
void ReadHgrn2(ConfigFields& fields, DecoderSpec& spec);

}  // namespace weir::engine
