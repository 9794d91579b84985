// SPDX-License-Identifier: Apache-2.0
#include "engine/mixers/mamba2.h"

#include <cstddef>
#include <limits>
#include <memory>

#include "absl/strings/str_cat.h"
#include "engine/kernels/pointwise.h"
#include "engine/kernels/short_conv.h"
#include "engine/mixers/parallel.h"

namespace weir::engine {
namespace {

// Rows of the projection begin at cache lines.
constexpr int64_t kRowFloats = 16;

int64_t Inner(const Mamba2Shape& shape) {
  return int64_t{shape.heads} * shape.head_dim;
}

int64_t Mixed(const Mamba2Shape& shape) {
  return Inner(shape) + int64_t{2} * shape.groups * shape.state_dim;
}

// Rows of W_in.
int64_t Projected(const Mamba2Shape& shape) {
  return Inner(shape) + Mixed(shape) + shape.heads;
}

int64_t RoundUp(int64_t value) {
  return (value + kRowFloats - 1) / kRowFloats * kRowFloats;
}

}  // namespace

Mamba2::Mamba2(const Mamba2Shape& shape)
    : shape_(shape),
      in_projection_(shape.hidden, RoundUp(Projected(shape)), shape.bias),
      out_projection_(Inner(shape), shape.hidden, shape.bias),
      conv_(shape.conv_width * Mixed(shape)),
      conv_bias_(shape.conv_bias ? Mixed(shape) : 0),
      a_log_(shape.heads),
      d_(shape.heads),
      dt_bias_(shape.heads),
      norm_(Inner(shape)) {}

std::vector<WeightSlot> Mamba2::Weights() {
  const int64_t heads = shape_.heads;
  std::vector<WeightSlot> slots = {
      in_projection_.Rows("in_proj.weight", 0, Projected(shape_)),
      out_projection_.Rows("out_proj.weight", 0, shape_.hidden),
      {.name = "conv1d.weight",
       .shape = {mixed(), 1, shape_.conv_width},
       .buffer = &conv_,
       .taps_pitch = mixed()},
      {.name = "A_log", .shape = {heads}, .buffer = &a_log_},
      {.name = "D", .shape = {heads}, .buffer = &d_},
      {.name = "dt_bias", .shape = {heads}, .buffer = &dt_bias_},
      {.name = "norm.weight", .shape = {inner()}, .buffer = &norm_},
  };
  if (shape_.conv_bias) {
    slots.push_back(
        {.name = "conv1d.bias", .shape = {mixed()}, .buffer = &conv_bias_});
  }
  if (shape_.bias) {
    slots.push_back(in_projection_.Bias("in_proj.bias", 0, Projected(shape_)));
    slots.push_back(out_projection_.Bias("out_proj.bias", 0, shape_.hidden));
  }
  return slots;
}

std::vector<StateTensor> Mamba2::State() const {
  return {{.name = "recurrent",
           .shape = {shape_.heads, shape_.head_dim, shape_.state_dim}},
          {.name = "conv", .shape = {shape_.conv_width - 1, mixed()}}};
}

int64_t Mamba2::workspace_floats() const {
  return in_projection_.outputs() + mixed() + 2 * inner() + shape_.heads;
}

void Mamba2::Forward(const MixerInput& input,
                     float* workspace,
                     float* out) const {
  const Batch& batch = *input.batch;
  const LayerState state = input.state;
  const int64_t tokens = batch.tokens;
  const int64_t width = in_projection_.outputs();
  float* projected = workspace;
  float* xbc = projected + tokens * width;
  float* v = xbc + tokens * mixed();
  float* y = v + tokens * inner();
  float* log2_decay = y + tokens * inner();
  const TokenRows z = {projected, width};
  const TokenRows skip = {xbc, mixed()};

  in_projection_.Forward(input.x, tokens, projected);
  RunShortConv(batch,
               {.channels = static_cast<int32_t>(mixed()),
                .width = shape_.conv_width,
                .x = {projected + inner(), width},
                .weight = conv_.data(),
                .bias = conv_bias_.data(),
                .out = xbc,
                .out_stride = mixed(),
                .state = state.pool->base(state.first + 1),
                .state_stride = state.pool->stride(state.first + 1)});
  const TimeStepArgs time_step = {.heads = shape_.heads,
                                  .head_dim = shape_.head_dim,
                                  .dt = {projected + inner() + mixed(), width},
                                  .x = skip,
                                  .a_log = a_log_.data(),
                                  .dt_bias = dt_bias_.data(),
                                  .dt_min = shape_.dt_min,
                                  .dt_max = shape_.dt_max,
                                  .log2_decay = log2_decay,
                                  .v = v};
  ParallelFor(tokens, 2 * inner(), [&](int64_t begin, int64_t end) {
    TimeStep(time_step, begin, end);
  });
  RunRecurrence(batch,
                {.heads = shape_.heads,
                 .key_heads = shape_.groups,
                 .key_dim = shape_.state_dim,
                 .value_dim = shape_.head_dim,
                 .q = {xbc + inner() + group_floats(), mixed()},
                 .k = {xbc + inner(), mixed()},
                 .v = {v, inner()},
                 .log2_decay = {log2_decay, shape_.heads},
                 .beta = {},
                 .out = y,
                 .out_stride = inner(),
                 .state = state.pool->base(state.first),
                 .state_stride = state.pool->stride(state.first)});
  const GatedNormArgs norm = {.groups = 1,
                              .width = static_cast<int32_t>(inner()),
                              .x = {y, inner()},
                              .z = z,
                              .weight = norm_.data(),
                              .shared_weight = false,
                              .eps = shape_.eps,
                              .gate = GateKind::kSilu,
                              .order = GateOrder::kBeforeNorm,
                              .out = y};
  ParallelFor(tokens, 4 * inner(), [&](int64_t begin, int64_t end) {
    AddSkip(skip, d_.data(), shape_.heads, shape_.head_dim, y, begin, end);
    GatedNorm(norm, begin, end);
  });
  out_projection_.Forward(y, tokens, out);
}

namespace {

Mamba2Shape ReadShape(ConfigFields& fields, int32_t hidden) {
  Mamba2Shape shape;
  shape.hidden = hidden;
  shape.heads = static_cast<int32_t>(fields.Int("num_heads", 1, kHeadsMax));
  shape.head_dim = static_cast<int32_t>(fields.Int("head_dim", 1, kHeadDimMax));
  shape.groups = static_cast<int32_t>(fields.Int("n_groups", 1, kHeadsMax));
  shape.state_dim =
      static_cast<int32_t>(fields.Int("state_size", 1, kHeadDimMax));
  const double inner = fields.Number("expand", 0, 64) * hidden;
  const int64_t heads_inner = int64_t{shape.heads} * shape.head_dim;
  if (inner != static_cast<double>(heads_inner)) {
    fields.Fail("expand",
                absl::StrCat("times hidden_size is ",
                             inner,
                             ", num_heads times head_dim is ",
                             heads_inner));
  }
  if (fields.Int("intermediate_size", 1, 1 << 22, heads_inner) != heads_inner) {
    fields.Fail("intermediate_size", "is not num_heads times head_dim");
  }
  if (shape.heads % shape.groups != 0) {
    fields.Fail("n_groups",
                absl::StrCat(
                    shape.groups, " does not divide num_heads, ", shape.heads));
  }
  shape.conv_width = static_cast<int32_t>(
      fields.Int("conv_kernel", kConvWidthMin, kConvWidthMax, 4));
  shape.conv_bias = fields.Bool("use_conv_bias", true);
  shape.bias = fields.Bool("use_bias", false);
  const auto limits = fields.Range(
      "time_step_limit", {0.0F, std::numeric_limits<float>::infinity()});
  shape.dt_min = limits[0];
  shape.dt_max = limits[1];
  shape.eps =
      static_cast<float>(fields.Number("layer_norm_epsilon", kEpsMin, 1));
  fields.OneOf("hidden_act", {"silu", "swish"}, "silu");
  if (!fields.Bool("rms_norm", true)) {
    fields.Fail("rms_norm", "a mixer without its norm is not served");
  }
  return shape;
}

}  // namespace

void ReadMamba2(ConfigFields& fields, DecoderSpec& spec) {
  if (!fields.Has("layer_norm_epsilon") && fields.Has("norm_eps")) {
    fields.Fail("norm_eps",
                "marks flash-linear-attention's mamba2, which normalises "
                "otherwise; only transformers' mamba2, which says "
                "layer_norm_epsilon, is served");
  }
  ReadDecoderSizes(fields, spec);
  spec.names = {.embedding = "backbone.embeddings.weight",
                .layers = "backbone.layers.",
                .final_norm = "backbone.norm_f"};
  const Mamba2Shape shape = ReadShape(fields, spec.hidden);
  spec.norm.eps = shape.eps;
  // Sizes of kernels and rules for the start of a training; and a key that
  // published folders (Mamba-Codestral) carry and transformers never reads: it
  // gates before the norm whatever it says.
  fields.Ignore({"chunk_size",
                 "norm_before_gate",
                 "emb_initializer_range",
                 "conv_initializer_range",
                 "rescale_prenorm_residual",
                 "residual_in_fp32",
                 "time_step_floor",
                 "time_step_init_scheme",
                 "time_step_max",
                 "time_step_min",
                 "time_step_rank",
                 "time_step_scale",
                 "use_triton_kernels"});
  spec.make_layer = [shape](int32_t) {
    std::vector<Sublayer> parts;
    parts.push_back({.norm = "norm",
                     .prefix = "mixer.",
                     .part = std::make_unique<Mamba2>(shape)});
    return parts;
  };
}

}  // namespace weir::engine
