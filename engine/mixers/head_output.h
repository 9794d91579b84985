// SPDX-License-Identifier: Apache-2.0
//
// What flash-linear-attention's layers end with:
//
//   out = W_o (rmsnorm(o) * w * act(g)), the norm of each head, the gate where
//   there is one
//
// Threads: as linear.h.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "engine/kernels/pointwise.h"
#include "engine/mixers/linear.h"
#include "engine/mixers/qkv_projection.h"

namespace weir::engine {

class HeadOutput {
 public:
  // `norm`: the name of the norm's weight, which the heads share.
  HeadOutput(const QkvShape& shape,
             float eps,
             GateKind gate,
             std::string norm = "o_norm.weight");

  // o_proj and the norm's.
  std::vector<WeightSlot> Weights();

  // out [tokens, hidden] of o [T][heads, V] and the gate g [T][heads, V], which
  // is not read where there is none. `normed` [tokens, heads, V] may be o's
  // place if o is contiguous.
  void Forward(TokenRows o,
               TokenRows g,
               int64_t tokens,
               float* normed,
               float* out) const;

  const Linear& projection() const { return projection_; }
  const Buffer& norm() const { return norm_; }  // [V]

 private:
  const int32_t heads_;
  const int32_t value_dim_;
  const int32_t hidden_;
  const float eps_;
  const GateKind gate_;
  const std::string norm_name_;
  Linear projection_;
  Buffer norm_;  // [V]
};

}  // namespace weir::engine
