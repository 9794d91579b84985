// SPDX-License-Identifier: Apache-2.0
//
// Gated Slot Attention (arXiv 2409.07146) as flash-linear-attention's
// checkpoints have it. Per head, with M slots:
//
//   q, k = phi(W x), v = silu(W x), of silu(conv(W x)) where there is one;
//   phi is silu, relu or relu(W_phi x); q is not scaled
//   d = sigmoid(W_f x)^(1/normalizer) per slot;  e = f = 1 - d
//   o by slot_recurrence.h
//   out = W_o (rmsnorm(silu(o)) * w), the norm over all heads
//
// Threads: as mixer.h.
#pragma once

#include <cstdint>
#include <vector>

#include "engine/mixers/decoder_spec.h"
#include "engine/mixers/mixer.h"
#include "engine/mixers/qkv_projection.h"
#include "engine/mixers/slot_recurrence.h"

namespace weir::engine {

enum class SlotFeature { kSilu, kRelu, kLearned };

struct GatedSlotsShape {
  QkvShape qkv;
  int32_t slots = 0;     // M
  float normalizer = 8;  // of the decay's logarithm
  SlotFeature feature = SlotFeature::kSilu;
};

class GatedSlots final : public Mixer {
 public:
  explicit GatedSlots(const GatedSlotsShape& shape);

  const GatedSlotsShape& shape() const { return shape_; }
  const QkvProjection& qkv() const { return qkv_; }
  const Linear& out_projection() const { return out_projection_; }
  const Buffer& feature() const { return feature_; }  // [K, K], or empty
  const Buffer& norm() const { return norm_; }        // [heads, V]
  float norm_eps() const;

  std::vector<WeightSlot> Weights() override;
  std::vector<StateTensor> State() const override;
  int64_t workspace_floats() const override;
  void Forward(const MixerInput& input,
               float* workspace,
               float* out) const override;

 private:
  // Where the parts of one pass lie in the workspace, [T, ...] each.
  struct Parts {
    float* q;           // [heads, K]
    float* k;           // [heads, K]
    float* v;           // [heads, V]
    float* raw;         // [heads, K], q or k before a learned feature
    float* log2_decay;  // [heads, M]
    float* write;       // [heads, M]
    float* weights;     // [heads, M]
    float* out;         // [heads, V]
  };

  int64_t slots() const { return int64_t{shape_.qkv.heads} * shape_.slots; }
  SlotShape slot_shape() const;
  Parts PartsOf(int64_t tokens, float* workspace) const;
  // y = phi(x), y [T, heads, K].
  void Feature(const float* x,
               int64_t stride,
               int64_t tokens,
               float* raw,
               float* y) const;
  void Gate(const Batch& batch, TokenRows f, const Parts& parts) const;
  // Over parts.out.
  void Finish(int64_t tokens, const Parts& parts, float* out) const;

  const GatedSlotsShape shape_;
  QkvProjection qkv_;  // f follows
  Buffer feature_;     // [K, K]; empty unless it is learned
  Linear out_projection_;
  Buffer norm_;  // [heads, V]
};

// flash-linear-attention's model_type gsa.
void ReadGatedSlots(ConfigFields& fields, DecoderSpec& spec);

}  // namespace weir::engine
