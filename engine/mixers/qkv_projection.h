// SPDX-License-Identifier: Apache-2.0
//
// Queries, keys and values as flash-linear-attention's layers make them: one
// product for all of a layer's projections, then for q, k and v a short
// convolution each, SiLU, for q and k a feature map, and a norm or a scale. A
// token has one query and `writes` keys and values, of which the first's heads
// come first.
//
// Threads: as linear.h.
#pragma once

#include <cstdint>
#include <vector>

#include "engine/kernels/activation.h"
#include "engine/kernels/pointwise.h"
#include "engine/mixers/decoder_spec.h"
#include "engine/mixers/mixer.h"

namespace weir::engine {

struct QkvShape {
  int32_t hidden = 0;
  int32_t heads = 0;      // value heads
  int32_t key_heads = 0;  // divides heads
  int32_t key_dim = 0;    // K, of one head
  int32_t value_dim = 0;  // V, of one head
  int32_t writes = 1;     // keys and values of one token
  // Heads that share a key and a value in the checkpoint. Each has its own
  // here, the same as its neighbours'.
  int32_t sharing = 1;
  int32_t conv_width = 0;  // 0: no convolution
  bool conv_bias = false;
  bool silu = false;  // without a convolution, which brings its own
  // Of q and k: whether they have either SiLU, and what follows it.
  bool qk_silu = true;
  Activation qk_map = Activation::kNone;
};

// Reads num_heads, and num_kv_heads, which divides it.
void ReadHeads(ConfigFields& fields, QkvShape& shape);
// Reads num_heads, num_v_heads, a multiple of it, head_dim and expand_v.
void ReadValueHeads(ConfigFields& fields, double expand_v, QkvShape& shape);
// Reads feature_map: null, or an activation by the name that transformers or
// flash-linear-attention has for it.
void ReadKeyMap(ConfigFields& fields, QkvShape& shape);
// Reads use_short_conv, conv_size and conv_bias.
void ReadConvolution(ConfigFields& fields, bool otherwise, QkvShape& shape);

class QkvProjection {
 public:
  // `extra_columns` of the product follow q, k and v, as they are.
  QkvProjection(const QkvShape& shape, int64_t extra_columns);

  // q_proj, k_proj, v_proj and their convolutions.
  std::vector<WeightSlot> Weights();
  // A tensor whose rows make the extra columns from `first` on.
  WeightSlot Extra(std::string name, int64_t first, int64_t rows);
  // "conv", or nothing.
  std::vector<StateTensor> State() const;
  // "recurrent" [heads, V, K], and State() behind it.
  std::vector<StateTensor> RecurrentState() const;
  int64_t workspace_floats() const;

  struct Result {
    float* q = nullptr;  // [T][key_heads, K]
    float* k = nullptr;  // [T][writes, key_heads, K]
    float* v = nullptr;  // [T][writes, heads, V]
    int64_t stride = 0;  // floats between two tokens of each
    TokenRows extra;     // [T][extra_columns]
  };
  // `conv` is the layer's tensor of State().
  Result Forward(const MixerInput& input, size_t conv, float* workspace) const;

  // The recurrence of q, k and v on the layer's first tensor, into out
  // [tokens, heads, V]; decay and correction are the caller's.
  RecurrenceArgs Recurrence(const MixerInput& input,
                            const Result& result,
                            float* out) const;

  // q and k to norm one, per head, and q times K^-1/2.
  void Normalize(const Result& result,
                 int64_t tokens,
                 HeadNorm norm = HeadNorm::kL2) const;
  // q times K^-1/2.
  void ScaleQueries(const Result& result, int64_t tokens) const;

  const QkvShape& shape() const { return shape_; }
  // Beside the squares of q and k.
  static float norm_eps();
  float query_scale() const { return QueryScale(); }
  // Columns without SiLU; q and k are the first.
  int64_t plain() const {
    return shape_.qk_silu ? 0 : (1 + shape_.writes) * keys();
  }
  const Linear& projection() const { return projection_; }
  const Buffer& conv() const { return conv_; }            // [W, mixed]
  const Buffer& conv_bias() const { return conv_bias_; }  // [mixed], or empty
  // Columns of q, k and v.
  int64_t mixed() const { return keys() + shape_.writes * (keys() + values()); }

  // Of one query, one of the keys or one of the values.
  int64_t keys() const { return int64_t{shape_.key_heads} * shape_.key_dim; }
  int64_t values() const { return int64_t{shape_.heads} * shape_.value_dim; }

 private:
  float QueryScale() const;
  // SiLU and the map of what the product, or the convolution, has left.
  void Activations(const Result& result, int64_t tokens) const;

  const QkvShape shape_;
  Linear projection_;
  Buffer conv_;       // [W, mixed]
  Buffer conv_bias_;  // [mixed]
};

}  // namespace weir::engine
