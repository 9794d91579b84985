// SPDX-License-Identifier: Apache-2.0
#include "engine/mixers/plain_qkv.h"

#include "absl/strings/str_cat.h"

namespace weir::engine {

PlainQkvShape ReadPlainQkv(ConfigFields& fields, int32_t hidden) {
  PlainQkvShape shape;
  shape.hidden = hidden;
  shape.heads = static_cast<int32_t>(fields.Int("num_heads", 1, kHeadsMax));
  const int32_t even = hidden % shape.heads == 0 ? hidden / shape.heads : 0;
  shape.key_dim =
      static_cast<int32_t>(fields.Int("head_dim", 1, kHeadDimMax, even));
  if (shape.key_dim < 1 || shape.key_dim > kHeadDimMax) {
    fields.Fail("num_heads",
                absl::StrCat("does not share hidden_size evenly, 1 to ",
                             kHeadDimMax,
                             " each, and there is no head_dim"));
    shape.key_dim = 1;
  }
  shape.value_dim = static_cast<int32_t>(
      fields.Int("value_dim", 1, kHeadDimMax, shape.key_dim));
  shape.qkv_bias = fields.Bool("qkv_bias", false);
  shape.out_bias = fields.Bool("out_bias", false);
  return shape;
}

PlainQkv::PlainQkv(const PlainQkvShape& shape, bool bias_apart)
    : shape_(shape),
      bias_apart_(bias_apart && shape.qkv_bias),
      projection_(shape.hidden, 2 * keys() + values(), shape.qkv_bias),
      apart_(bias_apart_ ? keys() + values() : 0),
      output_(values(), shape.hidden, shape.out_bias) {}

std::vector<WeightSlot> PlainQkv::Weights() {
  std::vector<WeightSlot> slots = {
      projection_.Rows("q_proj.weight", 0, keys()),
      projection_.Rows("k_proj.weight", keys(), keys()),
      projection_.Rows("v_proj.weight", 2 * keys(), values()),
      output_.Rows("o_proj.weight", 0, shape_.hidden)};
  if (shape_.qkv_bias) {
    slots.push_back(projection_.Bias("q_proj.bias", 0, keys()));
    slots.push_back(projection_.Bias("k_proj.bias", keys(), keys()));
    slots.push_back(projection_.Bias("v_proj.bias", 2 * keys(), values()));
  }
  if (bias_apart_) {
    // What stays zero in the projection adds nothing.
    slots[slots.size() - 2].buffer = &apart_;
    slots[slots.size() - 2].offset = 0;
    slots.back().buffer = &apart_;
    slots.back().offset = keys();
  }
  if (shape_.out_bias) {
    slots.push_back(output_.Bias("o_proj.bias", 0, shape_.hidden));
  }
  return slots;
}

PlainQkv::Result PlainQkv::Forward(const MixerInput& input,
                                   float* workspace) const {
  projection_.Forward(input.x, input.batch->tokens, workspace);
  return {.q = workspace,
          .k = workspace + keys(),
          .v = workspace + 2 * keys(),
          .stride = projection_.outputs()};
}

void PlainQkv::Output(const float* x, int64_t tokens, float* out) const {
  output_.Forward(x, tokens, out);
}

const float* PlainQkv::value_bias() const {
  return bias_apart_ ? apart_.data() + keys() : nullptr;
}

}  // namespace weir::engine
