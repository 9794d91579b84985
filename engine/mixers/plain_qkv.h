// SPDX-License-Identifier: Apache-2.0
//
// Queries, keys and values as the layouts of our own have them: one product for
// all three, with or without biases, and the output's product after the mixer.
//
// Threads: as linear.h.
#pragma once

#include <cstdint>
#include <vector>

#include "engine/mixers/decoder_spec.h"
#include "engine/mixers/mixer.h"

namespace weir::engine {

struct PlainQkvShape {
  int32_t hidden = 0;
  int32_t heads = 0;
  int32_t key_dim = 0;    // of one head's q and k
  int32_t value_dim = 0;  // of one head's v
  bool qkv_bias = false;
  bool out_bias = false;
};

// Reads num_heads, head_dim (hidden_size / num_heads if missing), value_dim
// (head_dim if missing), qkv_bias and out_bias.
PlainQkvShape ReadPlainQkv(ConfigFields& fields, int32_t hidden);

class PlainQkv {
 public:
  // With `bias_apart` the biases of k and v are loaded and not added.
  PlainQkv(const PlainQkvShape& shape, bool bias_apart);

  // q_proj, k_proj, v_proj and o_proj.
  std::vector<WeightSlot> Weights();
  int64_t workspace_floats() const { return projection_.outputs(); }

  struct Result {
    float* q = nullptr;  // [T][heads, K]
    float* k = nullptr;  // [T][heads, K]
    float* v = nullptr;  // [T][heads, V]
    int64_t stride = 0;  // floats between two tokens of each
  };
  Result Forward(const MixerInput& input, float* workspace) const;
  // x [T, heads, V], contiguous.
  void Output(const float* x, int64_t tokens, float* out) const;

  const PlainQkvShape& shape() const { return shape_; }
  // Columns of q, k and v, in this order.
  const Linear& projection() const { return projection_; }
  const Linear& output() const { return output_; }
  int64_t keys() const { return int64_t{shape_.heads} * shape_.key_dim; }
  int64_t values() const { return int64_t{shape_.heads} * shape_.value_dim; }
  // v's bias [heads, V] where biases are apart and there is one; else null.
  const float* value_bias() const;

 private:
  const PlainQkvShape shape_;
  const bool bias_apart_;
  Linear projection_;
  Buffer apart_;  // biases of k and v
  Linear output_;
};

}  // namespace weir::engine
