// SPDX-License-Identifier: Apache-2.0
//
// RWKV's feed-forward part, which holds a token-shift state of its own:
//
//   h = relu(W_k (x + delta mix_k))^2
//   out = W_v h                                       RWKV-7
//   out = sigmoid(W_r (x + delta mix_r)) * W_v h      RWKV-4, RWKV-6
//
// RWKV-4 stores one less the shares.
//
// Threads: as mixer.h.
#pragma once

#include <cstdint>
#include <vector>

#include "engine/mixers/mixer.h"
#include "engine/mixers/token_shift.h"

namespace weir::engine {

enum class RwkvVersion { k4, k6, k7 };

class ChannelMix final : public Mixer {
 public:
  // The version decides the names and whether there is a gate.
  ChannelMix(RwkvVersion version, int32_t hidden, int64_t intermediate);

  // Of shift()'s mixes.
  static constexpr int32_t kKeyMix = 0;
  static constexpr int32_t kReceptanceMix = 1;

  int64_t intermediate() const { return intermediate_; }
  bool gated() const { return version_ != RwkvVersion::k7; }
  const TokenShift& shift() const { return shift_; }
  const Linear& key() const { return key_; }
  const Linear& value() const { return value_; }
  const Linear& receptance() const { return receptance_; }

  std::vector<WeightSlot> Weights() override;
  std::vector<StateTensor> State() const override;
  int64_t workspace_floats() const override;
  void Prepare() override;
  void Forward(const MixerInput& input,
               float* workspace,
               float* out) const override;

 private:
  const RwkvVersion version_;
  const int32_t hidden_;
  const int64_t intermediate_;
  TokenShift shift_;
  Linear key_;
  Linear value_;
  Linear receptance_;  // empty without a gate
};

}  // namespace weir::engine
