// SPDX-License-Identifier: Apache-2.0
#include "engine/mixers/channel_mix.h"

#include "engine/kernels/activation.h"
#include "engine/mixers/parallel.h"

namespace weir::engine {
namespace {

struct Names {
  const char* key_mix;
  const char* key;
  const char* receptance_mix;
  const char* receptance;
};

Names NamesOf(RwkvVersion version) {
  switch (version) {
    case RwkvVersion::k4:
      return {"time_mix_key",
              "key.weight",
              "time_mix_receptance",
              "receptance.weight"};
    case RwkvVersion::k6:
      return {"key.mu",
              "key.linear.weight",
              "receptance.mu",
              "receptance.linear.weight"};
    case RwkvVersion::k7:
      break;
  }
  return {"x_k", "key.weight", nullptr, nullptr};
}

}  // namespace

ChannelMix::ChannelMix(RwkvVersion version,
                       int32_t hidden,
                       int64_t intermediate)
    : version_(version),
      hidden_(hidden),
      intermediate_(intermediate),
      shift_(hidden, gated() ? 2 : 1),
      key_(hidden, intermediate, false),
      value_(intermediate, hidden, false),
      receptance_(gated() ? hidden : 0, gated() ? hidden : 0, false) {}

std::vector<WeightSlot> ChannelMix::Weights() {
  const Names names = NamesOf(version_);
  std::vector<int64_t> mix_shape = {hidden_};
  if (version_ == RwkvVersion::k4) mix_shape = {1, 1, hidden_};
  std::vector<WeightSlot> slots = {
      shift_.Mix(names.key_mix, mix_shape, kKeyMix),
      key_.Rows(names.key, 0, intermediate_),
      value_.Rows("value.weight", 0, hidden_)};
  if (!gated()) return slots;
  slots.push_back(shift_.Mix(names.receptance_mix, mix_shape, kReceptanceMix));
  slots.push_back(receptance_.Rows(names.receptance, 0, hidden_));
  return slots;
}

std::vector<StateTensor> ChannelMix::State() const {
  return {shift_.State("channel_shift")};
}

int64_t ChannelMix::workspace_floats() const {
  return int64_t{2} * hidden_ + intermediate_;
}

void ChannelMix::Prepare() {
  if (version_ == RwkvVersion::k4) shift_.ComplementMixes();
}

void ChannelMix::Forward(const MixerInput& input,
                         float* workspace,
                         float* out) const {
  const int64_t tokens = input.batch->tokens;
  float* delta = workspace;
  float* mixed = delta + tokens * hidden_;
  float* inner = mixed + tokens * hidden_;
  shift_.Shift(input, input.state.first, delta);
  shift_.Lerp(input, delta, kKeyMix, {}, mixed);
  key_.Forward(mixed, tokens, inner);
  ParallelFor(tokens, intermediate_, [&](int64_t begin, int64_t end) {
    Activate(Activation::kSquaredRelu,
             inner + begin * intermediate_,
             (end - begin) * intermediate_);
  });
  value_.Forward(inner, tokens, out);
  if (!gated()) return;
  shift_.Lerp(input, delta, kReceptanceMix, {}, mixed);
  float* receptance = delta;
  receptance_.Forward(mixed, tokens, receptance);
  ParallelFor(tokens, int64_t{4} * hidden_, [&](int64_t begin, int64_t end) {
    SigmoidMultiply(
        {receptance, hidden_}, {out, hidden_}, hidden_, out, begin, end);
  });
}

}  // namespace weir::engine
