// SPDX-License-Identifier: Apache-2.0
#include "engine/mixers/rwkv4.h"

#include <cmath>
#include <memory>

#include "engine/kernels/activation.h"
#include "engine/kernels/wkv.h"
#include "engine/mixers/channel_mix.h"
#include "engine/mixers/parallel.h"

namespace weir::engine {
namespace {

// Of the layer's tensors in the pool.
enum StateIndex { kSums, kExponent, kShift };

}  // namespace

Rwkv4::Rwkv4(int32_t hidden, int32_t channels)
    : hidden_(hidden),
      channels_(channels),
      shift_(hidden, kMixes),
      key_(hidden, channels, false),
      value_(hidden, channels, false),
      receptance_(hidden, channels, false),
      output_(channels, hidden, false),
      rate_(channels),
      bonus_(channels) {}

std::vector<WeightSlot> Rwkv4::Weights() {
  const std::vector<int64_t> mix = {1, 1, hidden_};
  return {shift_.Mix("time_mix_key", mix, kKey),
          shift_.Mix("time_mix_value", mix, kValue),
          shift_.Mix("time_mix_receptance", mix, kReceptance),
          key_.Rows("key.weight", 0, channels_),
          value_.Rows("value.weight", 0, channels_),
          receptance_.Rows("receptance.weight", 0, channels_),
          output_.Rows("output.weight", 0, hidden_),
          {.name = "time_decay", .shape = {channels_}, .buffer = &rate_},
          {.name = "time_first", .shape = {channels_}, .buffer = &bonus_}};
}

std::vector<StateTensor> Rwkv4::State() const {
  return {{.name = "sums", .shape = {kWkvSums, channels_}},
          {.name = "exponent", .shape = {channels_}, .fill = kWkvEmpty},
          shift_.State("shift")};
}

int64_t Rwkv4::workspace_floats() const {
  return int64_t{2} * hidden_ + int64_t{3} * channels_;
}

void Rwkv4::Prepare() {
  shift_.ComplementMixes();
  for (int64_t i = 0; i < channels_; ++i) {
    rate_.data()[i] = static_cast<float>(std::exp(double{rate_.data()[i]}));
  }
}

// v becomes the average.
void Rwkv4::Recur(const MixerInput& input, const float* k, float* v) const {
  const Batch& batch = *input.batch;
  StatePool& pool = *input.state.pool;
  const size_t first = input.state.first;
  const WkvArgs args = {.rows = batch.rows,
                        .channels = channels_,
                        .row_starts = batch.row_starts,
                        .slots = batch.slots,
                        .k = {k, channels_},
                        .v = {v, channels_},
                        .rate = rate_.data(),
                        .bonus = bonus_.data(),
                        .out = v,
                        .out_stride = channels_,
                        .sums = pool.base(first + kSums),
                        .sums_stride = pool.stride(first + kSums),
                        .exponent = pool.base(first + kExponent),
                        .exponent_stride = pool.stride(first + kExponent)};
  if (batch.form == Form::kReference) {
    WkvReference(args);
    return;
  }
  // An exponential is worth some sixteen floats.
  ParallelFor(batch.rows * WkvBlocks(channels_),
              int64_t{32} * kWkvBlock * (batch.tokens / batch.rows),
              [&](int64_t begin, int64_t end) { Wkv(args, begin, end); });
}

void Rwkv4::Forward(const MixerInput& input,
                    float* workspace,
                    float* out) const {
  const int64_t tokens = input.batch->tokens;
  float* delta = workspace;
  float* mixed = delta + tokens * hidden_;
  float* k = mixed + tokens * hidden_;
  float* v = k + tokens * channels_;
  float* r = v + tokens * channels_;
  shift_.Shift(input, input.state.first + kShift, delta);
  shift_.Lerp(input, delta, kKey, {}, mixed);
  key_.Forward(mixed, tokens, k);
  shift_.Lerp(input, delta, kValue, {}, mixed);
  value_.Forward(mixed, tokens, v);
  shift_.Lerp(input, delta, kReceptance, {}, mixed);
  receptance_.Forward(mixed, tokens, r);
  Recur(input, k, v);
  ParallelFor(tokens, int64_t{4} * channels_, [&](int64_t begin, int64_t end) {
    SigmoidMultiply({r, channels_}, {v, channels_}, channels_, r, begin, end);
  });
  output_.Forward(r, tokens, out);
}

void ReadRwkv4(ConfigFields& fields, DecoderSpec& spec) {
  ReadDecoderSizes(fields, spec);
  spec.trained_length = static_cast<uint64_t>(
      fields.Int("context_length",
                 1,
                 int64_t{1} << 40,
                 static_cast<int64_t>(spec.trained_length)));
  spec.norm = {.eps = static_cast<float>(
                   fields.Number("layer_norm_epsilon", kEpsMin, 1, 1e-5)),
               .centered = true,
               .bias = true};
  // The authors' code gives the last norm no eps but its default.
  spec.final_eps = 1e-5F;
  spec.names = {.embedding = "rwkv.embeddings.weight",
                .layers = "rwkv.blocks.",
                .final_norm = "rwkv.ln_out",
                .head = "head.weight",
                .first_norm = "rwkv.blocks.0.pre_ln"};
  const int32_t hidden = spec.hidden;
  const auto channels = static_cast<int32_t>(
      fields.Int("attention_hidden_size", 1, kHiddenMax, hidden));
  const int64_t intermediate =
      fields.Int("intermediate_size", 1, kIntermediateMax, int64_t{4} * hidden);
  fields.Ignore({"rescale_every"});
  spec.make_layer = [hidden, channels, intermediate](int32_t) {
    std::vector<Sublayer> parts;
    parts.push_back({.norm = "ln1",
                     .prefix = "attention.",
                     .part = std::make_unique<Rwkv4>(hidden, channels)});
    parts.push_back({.norm = "ln2",
                     .prefix = "feed_forward.",
                     .part = std::make_unique<ChannelMix>(
                         RwkvVersion::k4, hidden, intermediate)});
    return parts;
  };
}

}  // namespace weir::engine
