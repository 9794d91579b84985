// SPDX-License-Identifier: Apache-2.0
#include "engine/mixers/rwkv6.h"

#include <algorithm>
#include <iterator>
#include <memory>
#include <utility>

#include "absl/strings/str_cat.h"
#include "engine/kernels/activation.h"
#include "engine/kernels/pointwise.h"
#include "engine/kernels/rwkv.h"
#include "engine/mixers/parallel.h"
#include "engine/mixers/rwkv_decoder.h"

namespace weir::engine {

Rwkv6::Rwkv6(const Rwkv6Shape& shape)
    : shape_(shape),
      shift_(shape.hidden, kMixes + 1),
      mix_down_(shape.hidden, int64_t{kMixes} * shape.mix_rank, false),
      mix_up_(int64_t{shape.hidden} * kMixes * shape.mix_rank),
      r_projection_(shape.hidden, keys(), false),
      k_projection_(shape.hidden, keys(), false),
      v_projection_(shape.hidden, values(), false),
      g_projection_(shape.hidden, values(), false),
      out_projection_(values(), shape.hidden, false),
      decay_(shape.hidden, shape.decay_rank, keys(), Activation::kTanh, true),
      bonus_(keys()),
      norm_(values()),
      norm_bias_(values()) {}

std::vector<WeightSlot> Rwkv6::Weights() {
  const int64_t mixes = int64_t{kMixes} * shape_.mix_rank;
  std::vector<WeightSlot> slots = {
      shift_.Mix("x_bias", {kMixes, shape_.hidden}, 0),
      shift_.Mix("x_proj.0.mu", {shape_.hidden}, kMu),
      mix_down_.Rows("x_proj.0.linear.weight", 0, mixes),
      {.name = "x_proj.2.weight",
       .shape = {shape_.hidden, mixes},
       .buffer = &mix_up_},
      r_projection_.Rows("r_proj.linear.weight", 0, keys()),
      k_projection_.Rows("k_proj.linear.weight", 0, keys()),
      v_projection_.Rows("v_proj.linear.weight", 0, values()),
      g_projection_.Rows("g_proj.linear.weight", 0, values()),
      out_projection_.Rows("o_proj.weight", 0, shape_.hidden),
      {.name = "bonus",
       .shape = {shape_.heads, shape_.key_dim},
       .buffer = &bonus_},
      {.name = "g_norm.weight", .shape = {values()}, .buffer = &norm_},
      {.name = "g_norm.bias", .shape = {values()}, .buffer = &norm_bias_},
  };
  std::vector<WeightSlot> decay = decay_.Weights("w_proj.linear.");
  std::move(decay.begin(), decay.end(), std::back_inserter(slots));
  return slots;
}

std::vector<StateTensor> Rwkv6::State() const {
  return {{.name = "recurrent",
           .shape = {shape_.heads, shape_.value_dim, shape_.key_dim}},
          shift_.State("shift")};
}

int64_t Rwkv6::narrow() const {
  return std::max(shape_.mix_rank, shape_.decay_rank);
}

int64_t Rwkv6::workspace_floats() const {
  return int64_t{2} * shape_.hidden + mix_down_.outputs() + narrow() +
         3 * keys() + 3 * values();
}

// The columns of each mix, a part of each row as stored, become a matrix.
void Rwkv6::Prepare() {
  const int64_t hidden = shape_.hidden;
  const int64_t rank = shape_.mix_rank;
  const std::vector<float> stored(mix_up_.data(),
                                  mix_up_.data() + mix_up_.size());
  for (int64_t mix = 0; mix < kMixes; ++mix) {
    for (int64_t channel = 0; channel < hidden; ++channel) {
      std::copy_n(stored.data() + (channel * kMixes + mix) * rank,
                  rank,
                  mix_up_.data() + (mix * hidden + channel) * rank);
    }
  }
}

Rwkv6::Parts Rwkv6::PartsOf(float* workspace, int64_t tokens) const {
  const auto take = [&workspace, tokens](int64_t floats) {
    return std::exchange(workspace, workspace + tokens * floats);
  };
  Parts parts = {};
  parts.delta = take(shape_.hidden);
  parts.mixed = take(shape_.hidden);
  parts.middle = take(mix_down_.outputs());
  parts.narrow = take(narrow());
  for (float** part : {&parts.r, &parts.w, &parts.k}) *part = take(keys());
  for (float** part : {&parts.v, &parts.g, &parts.y}) *part = take(values());
  return parts;
}

void Rwkv6::MixDown(const MixerInput& input, const Parts& parts) const {
  const int64_t tokens = input.batch->tokens;
  const int64_t width = mix_down_.outputs();
  shift_.Shift(input, input.state.first + 1, parts.delta);
  shift_.Lerp(input, parts.delta, kMu, {}, parts.mixed);
  mix_down_.Forward(parts.mixed, tokens, parts.middle);
  ParallelFor(tokens, 4 * width, [&](int64_t begin, int64_t end) {
    Activate(
        Activation::kTanh, parts.middle + begin * width, (end - begin) * width);
  });
}

void Rwkv6::MixUp(const MixerInput& input,
                  int32_t mix,
                  const Parts& parts) const {
  const int64_t tokens = input.batch->tokens;
  const int64_t rank = shape_.mix_rank;
  MatMul({parts.middle + mix * rank, kMixes * rank},
         tokens,
         rank,
         mix_up_.data() + mix * shape_.hidden * rank,
         shape_.hidden,
         /*bias=*/nullptr,
         parts.mixed);
  shift_.Lerp(
      input, parts.delta, mix, {parts.mixed, shape_.hidden}, parts.mixed);
}

void Rwkv6::Project(const MixerInput& input, const Parts& parts) const {
  const int64_t tokens = input.batch->tokens;
  MixDown(input, parts);
  MixUp(input, kR, parts);
  r_projection_.Forward(parts.mixed, tokens, parts.r);
  MixUp(input, kW, parts);
  decay_.Forward(parts.mixed, tokens, parts.narrow, parts.w);
  MixUp(input, kK, parts);
  k_projection_.Forward(parts.mixed, tokens, parts.k);
  MixUp(input, kV, parts);
  v_projection_.Forward(parts.mixed, tokens, parts.v);
  MixUp(input, kG, parts);
  g_projection_.Forward(parts.mixed, tokens, parts.g);
}

void Rwkv6::Recur(const MixerInput& input, const Parts& parts) const {
  const LayerState state = input.state;
  ParallelFor(input.batch->tokens, 4 * keys(), [&](int64_t begin, int64_t end) {
    Rwkv6Decay(parts.w + begin * keys(), (end - begin) * keys());
  });
  RunRecurrence(*input.batch,
                {.decay = DecayKind::kKey,
                 .read = ReadOrder::kBeforeWrite,
                 .heads = shape_.heads,
                 .key_heads = shape_.heads,
                 .key_dim = shape_.key_dim,
                 .value_dim = shape_.value_dim,
                 .q = {parts.r, keys()},
                 .k = {parts.k, keys()},
                 .v = {parts.v, values()},
                 .log2_decay = {parts.w, keys()},
                 .bonus = bonus_.data(),
                 .out = parts.y,
                 .out_stride = values(),
                 .state = state.pool->base(state.first),
                 .state_stride = state.pool->stride(state.first)});
}

void Rwkv6::Forward(const MixerInput& input,
                    float* workspace,
                    float* out) const {
  const int64_t tokens = input.batch->tokens;
  const Parts parts = PartsOf(workspace, tokens);
  Project(input, parts);
  Recur(input, parts);
  const GatedNormArgs norm = {.groups = shape_.heads,
                              .width = shape_.value_dim,
                              .x = {parts.y, values()},
                              .z = {parts.g, values()},
                              .weight = norm_.data(),
                              .bias = norm_bias_.data(),
                              .eps = shape_.eps,
                              .centered = true,
                              .gate = GateKind::kSilu,
                              .order = GateOrder::kAfterNorm,
                              .out = parts.y};
  ParallelFor(tokens, 4 * values(), [&](int64_t begin, int64_t end) {
    GatedNorm(norm, begin, end);
  });
  out_projection_.Forward(parts.y, tokens, out);
}

namespace {

// The width of one of `heads` heads of hidden times a configured factor.
int32_t ReadHeadDim(ConfigFields& fields,
                    const char* key,
                    double otherwise,
                    int32_t hidden,
                    int32_t heads) {
  // The authors' code cuts what is left of the point.
  const auto width =
      static_cast<int64_t>(hidden * fields.Number(key, 0, 16, otherwise));
  const int64_t dim = width / heads;
  if (dim < 1 || dim > kHeadDimMax || dim * heads != width) {
    fields.Fail(key,
                absl::StrCat("makes a width of ",
                             width,
                             ", which is not ",
                             heads,
                             " heads of 1 to ",
                             kHeadDimMax));
    return 1;
  }
  return static_cast<int32_t>(dim);
}

}  // namespace

void ReadRwkv6(ConfigFields& fields, DecoderSpec& spec) {
  ReadRwkvSizes(fields, spec);
  Rwkv6Shape shape;
  shape.hidden = spec.hidden;
  shape.heads = static_cast<int32_t>(fields.Int("num_heads", 1, kHeadsMax, 4));
  shape.key_dim =
      ReadHeadDim(fields, "expand_k", 0.5, shape.hidden, shape.heads);
  shape.value_dim =
      ReadHeadDim(fields, "expand_v", 1.0, shape.hidden, shape.heads);
  shape.mix_rank =
      static_cast<int32_t>(fields.Int("proj_low_rank_dim", 1, kHiddenMax, 32));
  shape.decay_rank =
      static_cast<int32_t>(fields.Int("gate_low_rank_dim", 1, kHiddenMax, 64));
  shape.eps = spec.norm.eps;
  ReadRwkvLayers(fields, spec, RwkvVersion::k6, 3.5, [shape](int32_t) {
    return std::make_unique<Rwkv6>(shape);
  });
}

}  // namespace weir::engine
