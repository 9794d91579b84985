// SPDX-License-Identifier: Apache-2.0
#include "engine/mixers/mamba.h"

#include <cmath>
#include <memory>

#include "absl/strings/str_cat.h"
#include "engine/kernels/pointwise.h"
#include "engine/kernels/short_conv.h"
#include "engine/mixers/fla_decoder.h"
#include "engine/mixers/parallel.h"

namespace weir::engine {

Mamba::Mamba(const MambaShape& shape)
    : shape_(shape),
      in_projection_(shape.hidden, int64_t{2} * shape.inner, shape.bias),
      dt_projection_(shape.dt_rank, shape.inner, false),
      out_projection_(shape.inner, shape.hidden, shape.bias),
      selection_((shape.dt_rank + int64_t{2} * shape.state_dim) * shape.inner),
      conv_(int64_t{shape.conv_width} * shape.inner),
      conv_bias_(shape.conv_bias ? shape.inner : 0),
      dt_bias_(shape.inner),
      rate_(int64_t{shape.state_dim} * shape.inner),
      d_(shape.inner) {}

std::vector<WeightSlot> Mamba::Weights() {
  const int64_t inner = shape_.inner;
  std::vector<WeightSlot> slots = {
      in_projection_.Rows("in_proj.weight", 0, 2 * inner),
      dt_projection_.Rows("dt_proj.weight", 0, inner),
      out_projection_.Rows("out_proj.weight", 0, shape_.hidden),
      {.name = "x_proj.weight",
       .shape = {shape_.dt_rank + int64_t{2} * shape_.state_dim, inner},
       .buffer = &selection_},
      {.name = "conv1d.weight",
       .shape = {inner, 1, shape_.conv_width},
       .buffer = &conv_,
       .taps_pitch = inner},
      {.name = "dt_proj.bias", .shape = {inner}, .buffer = &dt_bias_},
      {.name = "A_log",
       .shape = {inner, shape_.state_dim},
       .buffer = &rate_,
       .taps_pitch = inner},
      {.name = "D", .shape = {inner}, .buffer = &d_},
  };
  if (shape_.conv_bias) {
    slots.push_back(
        {.name = "conv1d.bias", .shape = {inner}, .buffer = &conv_bias_});
  }
  if (shape_.bias) {
    slots.push_back(in_projection_.Bias("in_proj.bias", 0, 2 * inner));
    slots.push_back(out_projection_.Bias("out_proj.bias", 0, shape_.hidden));
  }
  return slots;
}

std::vector<StateTensor> Mamba::State() const {
  return {{.name = "recurrent", .shape = {shape_.state_dim, shape_.inner}},
          {.name = "conv", .shape = {shape_.conv_width - 1, shape_.inner}}};
}

int64_t Mamba::workspace_floats() const {
  return int64_t{4} * shape_.inner + shape_.dt_rank +
         int64_t{2} * shape_.state_dim;
}

void Mamba::Prepare() {
  constexpr double kLog2E = 1.4426950408889634;
  float* rate = rate_.data();
  for (int64_t i = 0; i < rate_.size(); ++i) {
    rate[i] = static_cast<float>(-std::exp(double{rate[i]}) * kLog2E);
  }
}

void Mamba::Select(const float* x, int64_t tokens, float* r, float* bc) const {
  const int64_t inner = shape_.inner;
  const int64_t rank = shape_.dt_rank;
  const int32_t states = shape_.state_dim;
  const float* weight = selection_.data();
  MatMul({x, inner}, tokens, inner, weight, rank, /*bias=*/nullptr, r);
  weight += rank * inner;
  MatMul({x, inner},
         tokens,
         inner,
         weight,
         int64_t{2} * states,
         /*bias=*/nullptr,
         bc);
  if (shape_.mixer_eps == 0) return;
  const auto normalize = [&](int32_t groups, int32_t width, float* values) {
    const GatedNormArgs norm = {.groups = groups,
                                .width = width,
                                .x = {values, int64_t{groups} * width},
                                .z = {},
                                .eps = shape_.mixer_eps,
                                .gate = GateKind::kNone,
                                .out = values};
    ParallelFor(
        tokens, int64_t{groups} * width, [&](int64_t begin, int64_t end) {
          GatedNorm(norm, begin, end);
        });
  };
  normalize(1, shape_.dt_rank, r);
  normalize(2, states, bc);
}

void Mamba::Forward(const MixerInput& input,
                    float* workspace,
                    float* out) const {
  const Batch& batch = *input.batch;
  const LayerState state = input.state;
  const int64_t tokens = batch.tokens;
  const int64_t inner = shape_.inner;
  const int64_t states = shape_.state_dim;
  float* projected = workspace;
  float* x = projected + tokens * 2 * inner;
  float* r = x + tokens * inner;
  float* bc = r + tokens * shape_.dt_rank;
  float* dt = bc + tokens * 2 * states;

  in_projection_.Forward(input.x, tokens, projected);
  RunShortConv(batch,
               {.channels = shape_.inner,
                .width = shape_.conv_width,
                .x = {projected, 2 * inner},
                .weight = conv_.data(),
                .bias = conv_bias_.data(),
                .out = x,
                .out_stride = inner,
                .state = state.pool->base(state.first + 1),
                .state_stride = state.pool->stride(state.first + 1)});
  Select(x, tokens, r, bc);
  dt_projection_.Forward(r, tokens, dt);
  RunSelectiveScan(batch,
                   {.channels = shape_.inner,
                    .states = shape_.state_dim,
                    .dt = {dt, inner},
                    .x = {x, inner},
                    .b = {bc, 2 * states},
                    .c = {bc + states, 2 * states},
                    .z = {projected + inner, 2 * inner},
                    .dt_bias = dt_bias_.data(),
                    .rate = rate_.data(),
                    .d = d_.data(),
                    .out = dt,
                    .out_stride = inner,
                    .state = state.pool->base(state.first),
                    .state_stride = state.pool->stride(state.first)});
  out_projection_.Forward(dt, tokens, out);
}

namespace {

// A width that `expand` makes, unless the folder says it: transformers takes
// what is said over what it computes, and falcon-mamba-7b says 8192 beside an
// expand of 16.
int32_t ReadInner(ConfigFields& fields, int32_t hidden) {
  const double open = fields.Number("expand", 0, 64, 2.0) * hidden;
  if (!fields.Has("intermediate_size") &&
      (open < 1 || open != std::floor(open))) {
    fields.Fail("expand",
                absl::StrCat("times hidden_size is ", open, ", not whole"));
    return 1;
  }
  return static_cast<int32_t>(fields.Int(
      "intermediate_size", 1, kIntermediateMax, static_cast<int64_t>(open)));
}

int32_t ReadRank(ConfigFields& fields, const char* key, int32_t hidden) {
  constexpr int32_t kChannelsOfRank = 16;
  const int32_t open = (hidden + kChannelsOfRank - 1) / kChannelsOfRank;
  if (fields.Raw(key) == "auto") return open;
  return static_cast<int32_t>(fields.Int(key, 1, kHiddenMax, open));
}

// What all three formats name alike.
MambaShape ReadShape(ConfigFields& fields,
                     const DecoderSpec& spec,
                     const char* rank_key) {
  MambaShape shape;
  shape.hidden = spec.hidden;
  shape.inner = ReadInner(fields, spec.hidden);
  shape.state_dim =
      static_cast<int32_t>(fields.Int("state_size", 1, kHeadDimMax, 16));
  shape.dt_rank = ReadRank(fields, rank_key, spec.hidden);
  shape.conv_width = static_cast<int32_t>(
      fields.Int("conv_kernel", kConvWidthMin, kConvWidthMax, 4));
  shape.conv_bias = fields.Bool("use_conv_bias", true);
  shape.bias = fields.Bool("use_bias", false);
  fields.OneOf("hidden_act", {"silu", "swish"}, "silu");
  return shape;
}

// Rules for the start of a training, which of several equal algorithms is
// taken, and the precision of a residual stream that is fp32 here.
void IgnoreStart(ConfigFields& fields) {
  fields.Ignore({"rescale_prenorm_residual",
                 "residual_in_fp32",
                 "time_step_floor",
                 "time_step_init_scheme",
                 "time_step_max",
                 "time_step_min",
                 "time_step_scale",
                 "use_associative_scan",
                 "use_falcon_mambapy",
                 "use_mambapy"});
}

// Keys of the official format that converted folders (mamba-130m-hf) still
// carry, and that must not say something else.
void ReadLeftovers(ConfigFields& fields,
                   const DecoderSpec& spec,
                   const MambaShape& shape) {
  const auto expect = [&](const char* key, int64_t value, const char* of) {
    if (fields.Int(key, 1, int64_t{1} << 40, value) != value) {
      fields.Fail(key, absl::StrCat("is not ", of, ", ", value));
    }
  };
  expect("d_model", spec.hidden, "hidden_size");
  expect("d_inner", shape.inner, "intermediate_size");
  expect("n_layer", spec.layers, "num_hidden_layers");
  if (!fields.Bool("rms_norm", true)) {
    fields.Fail("rms_norm", "norms that take the mean away are not served");
  }
  const auto& options = fields.Raw("ssm_cfg");
  if (!options.is_null() && !options.empty()) {
    fields.Fail("ssm_cfg", "is not understood beside transformers' keys");
  }
  fields.Ignore({"fused_add_norm", "pad_vocab_size_multiple"});
}

void SetLayers(DecoderSpec& spec, const MambaShape& shape) {
  spec.names = {.embedding = "backbone.embeddings.weight",
                .layers = "backbone.layers.",
                .final_norm = "backbone.norm_f"};
  spec.make_layer = [shape](int32_t) {
    std::vector<Sublayer> parts;
    parts.push_back({.norm = "norm",
                     .prefix = "mixer.",
                     .part = std::make_unique<Mamba>(shape)});
    return parts;
  };
}

MambaShape ReadTransformersMamba(ConfigFields& fields, DecoderSpec& spec) {
  ReadDecoderSizes(fields, spec);
  spec.tied = fields.Bool("tie_word_embeddings", true);
  spec.norm.eps =
      static_cast<float>(fields.Number("layer_norm_epsilon", kEpsMin, 1, 1e-5));
  const MambaShape shape = ReadShape(fields, spec, "time_step_rank");
  IgnoreStart(fields);
  ReadLeftovers(fields, spec, shape);
  return shape;
}

}  // namespace

void ReadMamba(ConfigFields& fields, DecoderSpec& spec) {
  SetLayers(spec, ReadTransformersMamba(fields, spec));
}

void ReadFlaMamba(ConfigFields& fields, DecoderSpec& spec) {
  ReadFlaSizes(fields, spec);
  // Folders of before version 0.6 name it as transformers does.
  const char* rank = fields.Has("dt_rank") ? "dt_rank" : "time_step_rank";
  const MambaShape shape = ReadShape(fields, spec, rank);
  IgnoreStart(fields);
  fields.Ignore(
      {"dt_init_floor", "dt_init_scheme", "dt_max", "dt_min", "dt_scale"});
  SetLayers(spec, shape);
}

void ReadFalconMamba(ConfigFields& fields, DecoderSpec& spec) {
  MambaShape shape = ReadTransformersMamba(fields, spec);
  shape.mixer_eps =
      static_cast<float>(fields.Number("mixer_rms_eps", kEpsMin, 1, 1e-6));
  SetLayers(spec, shape);
}

}  // namespace weir::engine
