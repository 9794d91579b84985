// SPDX-License-Identifier: Apache-2.0
//
// What a decoder is made of beside its mixers.
//
// Threads: as mixer.h.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "engine/mixers/linear.h"
#include "engine/mixers/mixer.h"

namespace weir::engine {

// down(silu(gate x) * up x).
class SwiGlu {
 public:
  SwiGlu(int64_t hidden, int64_t intermediate);

  std::vector<WeightSlot> Weights();
  // Floats of workspace for each token.
  int64_t workspace_floats() const { return 3 * intermediate_; }
  void Forward(const float* x,
               int64_t tokens,
               float* workspace,
               float* out) const;

 private:
  const int64_t intermediate_;
  Linear gate_up_;
  Linear down_;
};

// One layer: each part reads the norm of the residual stream and is added to
// it.
struct Layer {
  Buffer norm;  // before the mixer
  std::unique_ptr<Mixer> mixer;
  Buffer feed_forward_norm;
  std::unique_ptr<SwiGlu> feed_forward;  // null: the mixer is all
  size_t state = 0;                      // its first tensor in the pool
};

// The names of a family's checkpoints.
struct LayerNames {
  std::string root;   // "model."
  std::string norm;   // "attn_norm.weight"
  std::string mixer;  // "attn."
};

// Everything that layer `index` wants of a checkpoint, by full name.
std::vector<WeightSlot> LayerWeights(Layer& layer,
                                     int32_t index,
                                     int64_t hidden,
                                     const LayerNames& names);

}  // namespace weir::engine
