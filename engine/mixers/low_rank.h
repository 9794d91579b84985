// SPDX-License-Identifier: Apache-2.0
//
// A projection through a narrow middle, up(f(down x)) + bias, as
// flash-linear-attention's checkpoints name it.
//
// Threads: as linear.h.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "engine/kernels/activation.h"
#include "engine/mixers/linear.h"

namespace weir::engine {

class LowRank {
 public:
  LowRank(int64_t inputs,
          int64_t rank,
          int64_t outputs,
          Activation activation,
          bool has_bias);

  // `prefix` and "lora.0.weight", "lora.2.weight", "lora.2.bias".
  std::vector<WeightSlot> Weights(const std::string& prefix);

  const Linear& down() const { return down_; }
  const Linear& up() const { return up_; }
  Activation activation() const { return activation_; }

  // y [tokens, outputs] of x [tokens, inputs]; `middle` [tokens, rank].
  void Forward(const float* x, int64_t tokens, float* middle, float* y) const;

 private:
  const int64_t outputs_;
  const Activation activation_;
  const bool has_bias_;
  Linear down_;
  Linear up_;
};

}  // namespace weir::engine
