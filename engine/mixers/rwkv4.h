// SPDX-License-Identifier: Apache-2.0
//
// RWKV-4's time mix (arXiv 2305.13048) as transformers' checkpoints have it:
// r, k, v projected from the input shifted towards that of the token before,
//
//   out = W_o (sigmoid(r) wkv(k, v)),  rate = exp(time_decay)
//
// with the recurrence of wkv.h. The checkpoints' rescale_every, which halves
// activations against fp16's range and undoes it, changes nothing in fp32.
//
// Threads: as mixer.h.
#pragma once

#include <cstdint>
#include <vector>

#include "engine/mixers/decoder_spec.h"
#include "engine/mixers/mixer.h"
#include "engine/mixers/token_shift.h"

namespace weir::engine {

class Rwkv4 final : public Mixer {
 public:
  Rwkv4(int32_t hidden, int32_t channels);

  // Of shift()'s mixes.
  enum Mix { kKey, kValue, kReceptance, kMixes };

  int32_t channels() const { return channels_; }
  // REQUIRES of its mixes, and of rate(): Prepare was called.
  const TokenShift& shift() const { return shift_; }
  const Linear& key() const { return key_; }
  const Linear& value() const { return value_; }
  const Linear& receptance() const { return receptance_; }
  const Linear& output() const { return output_; }
  const Buffer& rate() const { return rate_; }    // WkvArgs'
  const Buffer& bonus() const { return bonus_; }  // likewise

  std::vector<WeightSlot> Weights() override;
  std::vector<StateTensor> State() const override;
  int64_t workspace_floats() const override;
  void Prepare() override;
  void Forward(const MixerInput& input,
               float* workspace,
               float* out) const override;

 private:
  void Recur(const MixerInput& input, const float* k, float* v) const;

  const int32_t hidden_;
  const int32_t channels_;
  TokenShift shift_;
  Linear key_;
  Linear value_;
  Linear receptance_;
  Linear output_;
  Buffer rate_;   // [channels]
  Buffer bonus_;  // [channels]
};

// transformers' model_type rwkv.
void ReadRwkv4(ConfigFields& fields, DecoderSpec& spec);

}  // namespace weir::engine
