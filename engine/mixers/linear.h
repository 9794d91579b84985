// SPDX-License-Identifier: Apache-2.0
//
// y = x W^T + bias in fp32, through the library's matrix products. Several
// projections of one input are one Linear: their rows of W lie end to end.
//
// Threads: a const Linear from one thread at a time; the products use the
// library's threads.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "engine/kernels/recurrence.h"
#include "engine/mixers/buffer.h"

namespace weir::engine {

// A tensor of a checkpoint and where its values go.
struct WeightSlot {
  std::string name;            // without the prefix of the layer
  std::vector<int64_t> shape;  // as stored
  Buffer* buffer = nullptr;
  int64_t offset = 0;  // floats
  // 0: the values are laid out as they are stored. Else they are the taps
  // [C, 1, W] of a convolution, and tap w of channel c goes to
  // offset + w * taps_pitch + c.
  int64_t taps_pitch = 0;
  // Each `block` of the outermost extent goes to as many places, one behind
  // the other: heads that share what is stored once.
  int64_t copies = 1;
  int64_t block = 1;
};

// y [tokens, outputs] = x [T][inputs] weight^T + bias; weight
// [outputs, inputs], bias [outputs] or nullptr. All but x contiguous.
void MatMul(TokenRows x,
            int64_t tokens,
            int64_t inputs,
            const float* weight,
            int64_t outputs,
            const float* bias,
            float* y);

class Linear {
 public:
  Linear() = default;
  Linear(int64_t inputs, int64_t outputs, bool has_bias);

  // The part of W, or of the bias, that begins at row `first`.
  WeightSlot Rows(std::string name, int64_t first, int64_t rows);
  WeightSlot Bias(std::string name, int64_t first, int64_t rows);

  // y [tokens, outputs], contiguous, of x [T][inputs]. REQUIRES: the weights
  // are loaded.
  void Forward(TokenRows x, int64_t tokens, float* y) const;
  // Of x [tokens, inputs], contiguous.
  void Forward(const float* x, int64_t tokens, float* y) const {
    Forward(TokenRows{x, inputs_}, tokens, y);
  }

  int64_t inputs() const { return inputs_; }
  int64_t outputs() const { return outputs_; }
  const Buffer& weight() const { return weight_; }  // [outputs, inputs]
  const Buffer& bias() const { return bias_; }      // [outputs], or empty

 private:
  int64_t inputs_ = 0;
  int64_t outputs_ = 0;
  Buffer weight_;
  Buffer bias_;
};

}  // namespace weir::engine
