// SPDX-License-Identifier: Apache-2.0
//
// The Performer's attention (arXiv 2009.14794), causal, in a layout of our own
// (docs/checkpoints.md). With W [m, d] the frozen random projection, x = d^-1/4
// q or k, and phi either
//
//   favor   positive features of the softmax kernel, by an online maximum:
//           kernels/favor.h, its z read as z + m^1/2 eps
//   relu    phi(x) = max(W x, 0) + feature_eps;  S <- S + phi(k) v^T,
//           z <- z + phi(k),  o = S^T phi(q) / (phi(q).(z + eps))
//
//   out = W_o o + b
//
// Threads: as mixer.h.
#pragma once

#include <cstdint>
#include <vector>

#include "engine/mixers/decoder_spec.h"
#include "engine/mixers/mixer.h"
#include "engine/mixers/plain_qkv.h"

namespace weir::engine {

enum class PerformerKernel { kFavor, kRelu };

struct PerformerShape {
  PlainQkvShape qkv;
  PerformerKernel kernel = PerformerKernel::kFavor;
  int32_t features = 0;         // m
  bool shared_features = true;  // one W for all heads of a layer
  bool scaled = true;           // x = d^-1/4 q, else q
  float feature_eps = 0;
  float eps = 0;  // of the sums of keys
};

class Performer final : public Mixer {
 public:
  explicit Performer(const PerformerShape& shape);

  const PerformerShape& shape() const { return shape_; }
  const PlainQkv& qkv() const { return qkv_; }
  // W [m, d], or [heads, m, d].
  const Buffer& projection() const { return projection_; }
  // What x is of q or k.
  float scale() const;

  std::vector<WeightSlot> Weights() override;
  std::vector<StateTensor> State() const override;
  int64_t workspace_floats() const override;
  void Forward(const MixerInput& input,
               float* workspace,
               float* out) const override;

 private:
  // Where the parts of one pass lie in the workspace, [T, ...] each.
  struct Parts {
    PlainQkv::Result qkv;
    float* scaled;      // [heads, d]
    float* head;        // [m], features of one head
    float* q;           // [heads, m], features
    float* k;           // [heads, m], features
    float* half;        // [heads]
    float* log2_decay;  // [heads]
    float* sums;        // [heads]
    float* dots;        // [heads]
    float* count;       // [1]
    float* values;      // [heads, V], sums of v
    float* out;         // [heads, V]
  };

  int64_t features() const {
    return int64_t{shape_.qkv.heads} * shape_.features;
  }
  Parts PartsOf(int64_t tokens, float* workspace) const;
  // W x of q or k, and |x|^2 / 2 in parts.half.
  void Project(const Parts& parts,
               int64_t tokens,
               const float* x,
               float* features_out) const;
  // The features of q and k and, with FAVOR+, what the state decays by.
  void MakeFavor(const MixerInput& input, const Parts& parts) const;
  void MakeRelu(int64_t tokens, const Parts& parts) const;
  // The quotient, of what the recurrence left in parts.out.
  void ReadFavor(const MixerInput& input, const Parts& parts) const;
  void ReadRelu(const MixerInput& input, const Parts& parts) const;

  const PerformerShape shape_;
  PlainQkv qkv_;
  Buffer projection_;
  const std::vector<float> no_decay_;  // [heads]
};

// Our own model_type weir_performer.
void ReadPerformer(ConfigFields& fields, DecoderSpec& spec);

}  // namespace weir::engine
