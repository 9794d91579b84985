// SPDX-License-Identifier: Apache-2.0
//
// The Linear Transformer's attention (arXiv 2006.16236) as flash-linear-
// attention's checkpoints have it:
//
//   q, k = phi(W x), v = W x;  phi makes F features (fla_features.h), which
//     may be divided by their sum + 1e-4; q times F^-1/2
//   S <- S + k v^T;  o = S^T q, over q.z + 1e-10 with z the sum of the keys
//     where the configuration asks for it
//   out = W_o (rmsnorm(o) * w)
//
// Nothing damps the sums, so that they are held as two floats each: one token
// over and over drifts by 3e-4 of fp64 in 100,000 otherwise.
//
// Threads: as mixer.h.
#pragma once

#include <cstdint>
#include <vector>

#include "engine/mixers/decoder_spec.h"
#include "engine/mixers/fla_features.h"
#include "engine/mixers/head_output.h"
#include "engine/mixers/mixer.h"
#include "engine/mixers/qkv_projection.h"

namespace weir::engine {

struct LinearAttentionShape {
  QkvShape qkv;
  FeatureKind feature = FeatureKind::kElementwiseProduct;
  bool tied = false;  // one map for queries and keys, by the keys' name
  bool divided_queries = false;
  bool divided_keys = false;
  bool normalized = false;
  float eps = 0;
};

class LinearAttention final : public Mixer {
 public:
  explicit LinearAttention(const LinearAttentionShape& shape);

  const LinearAttentionShape& shape() const { return shape_; }
  const QkvProjection& qkv() const { return qkv_; }
  // Of the queries, which are the keys' where both share one.
  const FlaFeatures& query_features() const {
    return shape_.tied ? key_features_ : query_features_;
  }
  const FlaFeatures& key_features() const { return key_features_; }
  const HeadOutput& output() const { return output_; }
  // What a sum of keys is kept above.
  static float sum_eps();

  std::vector<WeightSlot> Weights() override;
  std::vector<StateTensor> State() const override;
  int64_t workspace_floats() const override;
  void Forward(const MixerInput& input,
               float* workspace,
               float* out) const override;

 private:
  // [T, heads, F], contiguous.
  struct Features {
    float* q = nullptr;
    float* k = nullptr;
  };

  int64_t values() const { return qkv_.values(); }
  int64_t features() const {  // of one head
    return FeaturesOf(shape_.feature, shape_.qkv.key_dim);
  }
  int64_t feature_width() const { return shape_.qkv.heads * features(); }
  void Map(const QkvProjection::Result& qkv,
           int64_t tokens,
           float* workspace,
           const Features& to) const;
  void Normalize(const MixerInput& input,
                 const Features& from,
                 float* sums,
                 float* mixed_out) const;

  const LinearAttentionShape shape_;
  QkvProjection qkv_;
  FlaFeatures query_features_;
  FlaFeatures key_features_;
  HeadOutput output_;
  const std::vector<float> no_decay_;  // [heads]
};

// flash-linear-attention's model_type linear_attn.
void ReadLinearAttention(ConfigFields& fields, DecoderSpec& spec);

}  // namespace weir::engine
