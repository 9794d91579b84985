// SPDX-License-Identifier: Apache-2.0
#include "engine/mixers/mamba2.h"

#include <cmath>
#include <cstddef>
#include <limits>
#include <memory>

#include "absl/strings/str_cat.h"
#include "engine/kernels/short_conv.h"
#include "engine/mixers/fla_decoder.h"
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
  const int32_t groups = shape_.norm_groups;
  const GatedNormArgs norm = {.groups = groups,
                              .width = static_cast<int32_t>(inner() / groups),
                              .x = {y, inner()},
                              .z = z,
                              .weight = norm_.data(),
                              .shared_weight = false,
                              .eps = shape_.eps,
                              .gate = GateKind::kSilu,
                              .order = shape_.order,
                              .out = y};
  ParallelFor(tokens, 4 * inner(), [&](int64_t begin, int64_t end) {
    AddSkip(skip, d_.data(), shape_.heads, shape_.head_dim, y, begin, end);
    GatedNorm(norm, begin, end);
  });
  out_projection_.Forward(y, tokens, out);
}

namespace {

constexpr float kInfinity = std::numeric_limits<float>::infinity();

// How a format calls what all of them say.
struct Mamba2Keys {
  const char* expand;
  const char* head_dim;
  const char* groups;
  const char* state_dim;
  const char* conv_width;
  const char* bias;
  const char* conv_bias;
  const char* dt_limit;
  const char* norm;
};

// The defaults are the authors'.
Mamba2Shape ReadSizes(ConfigFields& fields,
                      const Mamba2Keys& keys,
                      int32_t hidden) {
  Mamba2Shape shape;
  shape.hidden = hidden;
  shape.head_dim =
      static_cast<int32_t>(fields.Int(keys.head_dim, 1, kHeadDimMax, 64));
  const double inner = fields.Number(keys.expand, 0, 64, 2.0) * hidden;
  const double heads = inner / shape.head_dim;
  if (heads < 1 || heads > kHeadsMax || heads != std::floor(heads)) {
    fields.Fail(keys.expand,
                absl::StrCat("makes an inner width of ",
                             inner,
                             ", which are no whole heads of ",
                             shape.head_dim));
    shape.heads = 1;
  } else {
    shape.heads = static_cast<int32_t>(heads);
  }
  shape.groups = static_cast<int32_t>(fields.Int(keys.groups, 1, kHeadsMax, 1));
  if (shape.heads % shape.groups != 0) {
    fields.Fail(keys.groups,
                absl::StrCat(
                    shape.groups, " does not divide the heads, ", shape.heads));
  }
  shape.state_dim =
      static_cast<int32_t>(fields.Int(keys.state_dim, 1, kHeadDimMax, 128));
  shape.conv_width = static_cast<int32_t>(
      fields.Int(keys.conv_width, kConvWidthMin, kConvWidthMax, 4));
  shape.conv_bias = fields.Bool(keys.conv_bias, true);
  shape.bias = fields.Bool(keys.bias, false);
  const auto limits = fields.Range(keys.dt_limit, {0.0F, kInfinity});
  shape.dt_min = limits[0];
  shape.dt_max = limits[1];
  if (!fields.Bool(keys.norm, true)) {
    fields.Fail(keys.norm, "a mixer without its norm is not served");
  }
  return shape;
}

// A number of heads that is said must be the one that `expand` makes.
void CheckHeads(ConfigFields& fields, const Mamba2Shape& shape) {
  if (fields.Int("num_heads", 1, kHeadsMax, shape.heads) != shape.heads) {
    fields.Fail("expand",
                absl::StrCat("times hidden_size over head_dim is ",
                             shape.heads,
                             ", which is not num_heads"));
  }
  const int64_t inner = Inner(shape);
  if (fields.Int("intermediate_size", 1, 1 << 22, inner) != inner) {
    fields.Fail("intermediate_size", "is not num_heads times head_dim");
  }
}

// What flash-linear-attention and the authors have beyond transformers.
void ReadGroupedNorm(ConfigFields& fields, Mamba2Shape& shape) {
  shape.norm_groups = shape.groups;
  if (fields.Bool("norm_before_gate", false)) {
    shape.order = GateOrder::kAfterNorm;
  }
  if (fields.Bool("D_has_hdim", false)) {
    fields.Fail("D_has_hdim", "a skip for each channel is not served");
  }
  // Rules for the start of a training, and sizes of kernels.
  fields.Ignore({"A_init_range",
                 "chunk_size",
                 "conv_init",
                 "dt_init_floor",
                 "dt_max",
                 "dt_min",
                 "use_mem_eff_path"});
}

void SetLayers(DecoderSpec& spec, const char* embedding, Mamba2Shape shape) {
  shape.eps = spec.norm.eps;
  spec.names = {.embedding = embedding,
                .layers = "backbone.layers.",
                .final_norm = "backbone.norm_f"};
  spec.make_layer = [shape](int32_t) {
    std::vector<Sublayer> parts;
    parts.push_back({.norm = "norm",
                     .prefix = "mixer.",
                     .part = std::make_unique<Mamba2>(shape)});
    return parts;
  };
}

constexpr Mamba2Keys kTransformersKeys = {.expand = "expand",
                                          .head_dim = "head_dim",
                                          .groups = "n_groups",
                                          .state_dim = "state_size",
                                          .conv_width = "conv_kernel",
                                          .bias = "use_bias",
                                          .conv_bias = "use_conv_bias",
                                          .dt_limit = "time_step_limit",
                                          .norm = "rms_norm"};

// Folders of before version 0.6 name two things as transformers does.
Mamba2Keys FlaKeys(const ConfigFields& fields) {
  Mamba2Keys keys = kTransformersKeys;
  if (!fields.Has(keys.dt_limit)) keys.dt_limit = "dt_limit";
  if (!fields.Has(keys.norm)) keys.norm = "rmsnorm";
  return keys;
}

constexpr Mamba2Keys kOfficialKeys = {.expand = "expand",
                                      .head_dim = "headdim",
                                      .groups = "ngroups",
                                      .state_dim = "d_state",
                                      .conv_width = "d_conv",
                                      .bias = "bias",
                                      .conv_bias = "conv_bias",
                                      .dt_limit = "dt_limit",
                                      .norm = "rmsnorm"};

}  // namespace

void ReadMamba2(ConfigFields& fields, DecoderSpec& spec) {
  ReadDecoderSizes(fields, spec);
  spec.norm.eps =
      static_cast<float>(fields.Number("layer_norm_epsilon", kEpsMin, 1));
  // transformers' defaults are the sizes of one model of 7 billion parameters,
  // which no folder that leaves them open has meant.
  for (const char* key : {"expand", "head_dim", "n_groups", "state_size"}) {
    if (!fields.Has(key)) fields.Fail(key, "is missing");
  }
  const Mamba2Shape shape = ReadSizes(fields, kTransformersKeys, spec.hidden);
  CheckHeads(fields, shape);
  fields.OneOf("hidden_act", {"silu", "swish"}, "silu");
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
  SetLayers(spec, "backbone.embeddings.weight", shape);
}

void ReadFlaMamba2(ConfigFields& fields, DecoderSpec& spec) {
  ReadFlaSizes(fields, spec);
  Mamba2Shape shape = ReadSizes(fields, FlaKeys(fields), spec.hidden);
  CheckHeads(fields, shape);
  ReadGroupedNorm(fields, shape);
  fields.OneOf("hidden_act", {"silu", "swish"}, "silu");
  fields.Ignore({"rescale_prenorm_residual",
                 "residual_in_fp32",
                 "time_step_floor",
                 "time_step_max",
                 "time_step_min",
                 "time_step_rank"});
  SetLayers(spec, "backbone.embeddings.weight", shape);
}

bool IsOfficialMamba2(const ConfigFields& fields) {
  return fields.Has("d_model") && fields.Has("n_layer") &&
         fields.Has("ssm_cfg");
}

namespace {

// The table is filled up with rows that no token names.
int32_t ReadPaddedVocabulary(ConfigFields& fields) {
  const int64_t said = fields.Int("vocab_size", 1, kVocabularyMax);
  const int64_t multiple =
      fields.Int("pad_vocab_size_multiple", 1, kHiddenMax, 8);
  return static_cast<int32_t>((said + multiple - 1) / multiple * multiple);
}

Mamba2Shape ReadMixerOptions(ConfigFields& fields, int32_t hidden) {
  const auto& options = fields.Raw("ssm_cfg");
  if (!options.is_object()) {
    fields.Fail("ssm_cfg", "is not an object");
    return {};
  }
  ConfigFields inner(options, "ssm_cfg");
  inner.OneOf("layer", {"Mamba2"}, "Mamba1");
  if (!inner.Has("layer")) {
    fields.Fail("ssm_cfg", "has no layer, which means Mamba1: not served");
  }
  Mamba2Shape shape = ReadSizes(inner, kOfficialKeys, hidden);
  const int64_t width = Inner(shape);
  if (inner.Int("d_ssm", 1, kIntermediateMax, width) != width) {
    inner.Fail("d_ssm", "an MLP within the mixer is not served");
  }
  ReadGroupedNorm(inner, shape);
  const absl::Status status = inner.Finish();
  if (!status.ok()) fields.Fail("ssm_cfg", std::string(status.message()));
  return shape;
}

}  // namespace

void ReadOfficialMamba2(ConfigFields& fields, DecoderSpec& spec) {
  // Its code holds it fixed.
  constexpr float kEps = 1e-5F;
  spec.hidden = static_cast<int32_t>(fields.Int("d_model", 1, kHiddenMax));
  spec.layers = static_cast<int32_t>(fields.Int("n_layer", 1, kLayersMax));
  spec.vocabulary = ReadPaddedVocabulary(fields);
  spec.tied = fields.Bool("tie_embeddings", true);
  spec.norm.eps = kEps;
  if (!fields.Bool("rms_norm", true)) {
    fields.Fail("rms_norm", "norms that take the mean away are not served");
  }
  const Mamba2Shape shape = ReadMixerOptions(fields, spec.hidden);
  if (fields.Int("d_intermediate", 0, kIntermediateMax, 0) != 0) {
    fields.Fail("d_intermediate", "layers with an MLP are not served");
  }
  const auto& attention = fields.Raw("attn_layer_idx");
  if (!attention.is_null() && !attention.empty()) {
    fields.Fail("attn_layer_idx",
                "layers of attention beside the recurrent ones are not served");
  }
  fields.Ignore({"attn_cfg", "fused_add_norm", "residual_in_fp32"});
  SetLayers(spec, "backbone.embedding.weight", shape);
}

}  // namespace weir::engine
