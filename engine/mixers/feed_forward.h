// SPDX-License-Identifier: Apache-2.0
//
// The feed-forward part of a layer: down(silu(gate x) * up x). It holds no
// state; it is a Mixer so that a layer is a list of parts.
//
// Threads: as mixer.h.
#pragma once

#include <cstdint>
#include <vector>

#include "engine/mixers/mixer.h"

namespace weir::engine {

class SwiGlu final : public Mixer {
 public:
  // Of its tensors, without ".weight". Without an `up` the gate's tensor holds
  // both, one after the other.
  struct Names {
    const char* gate = "gate_proj";
    const char* up = "up_proj";
    const char* down = "down_proj";
  };

  SwiGlu(int64_t hidden, int64_t intermediate, const Names& names);
  SwiGlu(int64_t hidden, int64_t intermediate)
      : SwiGlu(hidden, intermediate, Names()) {}

  int64_t intermediate() const { return intermediate_; }
  const Linear& gate_up() const { return gate_up_; }  // the gate's rows first
  const Linear& down() const { return down_; }

  std::vector<WeightSlot> Weights() override;
  std::vector<StateTensor> State() const override { return {}; }
  int64_t workspace_floats() const override { return 3 * intermediate_; }
  void Forward(const MixerInput& input,
               float* workspace,
               float* out) const override;

 private:
  const int64_t intermediate_;
  const Names names_;
  Linear gate_up_;
  Linear down_;
};

}  // namespace weir::engine
