// SPDX-License-Identifier: Apache-2.0
#include "engine/model/config.h"

#include <cmath>
#include <limits>

#include "absl/strings/str_cat.h"
#include "base/status_macros.h"
#include "engine/model/config_fields.h"
#include "engine/model/strict_json.h"

namespace weir::engine {
namespace {

using nlohmann::json;

constexpr int64_t kLayersMax = 1024;
constexpr int64_t kHiddenMax = 65'536;
constexpr int64_t kIntermediateMax = 1 << 20;
constexpr int64_t kVocabularyMax = 1 << 22;
constexpr int64_t kHeadsMax = 4096;
constexpr int64_t kHeadDimMax = 1024;
// Below it fp32 has none, and a row of zeros becomes NaN.
constexpr double kEpsMin = 1e-30;
// What the convolution's kernel can do.
constexpr int64_t kConvWidthMin = 2;
constexpr int64_t kConvWidthMax = 8;

int32_t Int32(int64_t value) { return static_cast<int32_t>(value); }

// The keys that all families share.
void ParseShared(ConfigFields& fields, ModelConfig& config) {
  if (fields.Has("auto_map")) {
    fields.Fail("auto_map", "names code to run, and none is ever run");
  }
  config.hidden = Int32(fields.Int("hidden_size", 1, kHiddenMax));
  config.layers = Int32(fields.Int("num_hidden_layers", 1, kLayersMax));
  config.vocabulary = Int32(fields.Int("vocab_size", 1, kVocabularyMax));
  config.tied = fields.Bool("tie_word_embeddings", false);
  const json& start = fields.Raw("bos_token_id");
  if (start.is_number_unsigned() &&
      start.get<uint64_t>() < static_cast<uint64_t>(config.vocabulary)) {
    config.start_token = start.get<uint32_t>();
  }
}

// Where a checkpoint leaves the width open, its authors' rule: two thirds of
// hidden times ratio, up to the next multiple of 256.
int32_t ParseIntermediate(ConfigFields& fields, int32_t hidden) {
  const double ratio = fields.Number("hidden_ratio", 0, 64, 4.0);
  const auto open = static_cast<int64_t>(hidden * ratio * 2 / 3);
  const int64_t rounded = (open + 255) / 256 * 256;
  const int64_t width =
      fields.Int("intermediate_size", 1, kIntermediateMax, rounded);
  if (width < 1 || width > kIntermediateMax) {
    fields.Fail("hidden_ratio", "makes an intermediate size out of range");
    return 1;
  }
  return Int32(width);
}

void ParseGatedDeltaNet(ConfigFields& fields, ModelConfig& config) {
  GatedDeltaNetShape shape;
  shape.hidden = config.hidden;
  shape.key_heads = Int32(fields.Int("num_heads", 1, kHeadsMax));
  shape.heads = Int32(fields.Int("num_v_heads", 1, kHeadsMax, shape.key_heads));
  if (shape.heads % shape.key_heads != 0) {
    fields.Fail(
        "num_v_heads",
        absl::StrCat(
            shape.heads, " is no multiple of num_heads, ", shape.key_heads));
  }
  shape.key_dim = Int32(fields.Int("head_dim", 1, kHeadDimMax));
  const double value_dim =
      shape.key_dim * fields.Number("expand_v", 0, 16, 2.0);
  shape.value_dim = Int32(std::lround(value_dim));
  if (shape.value_dim < 1 || shape.value_dim > kHeadDimMax ||
      std::abs(value_dim - shape.value_dim) > 1e-5) {
    fields.Fail("expand_v",
                absl::StrCat("times head_dim is ",
                             value_dim,
                             ", not a whole number from 1 to ",
                             kHeadDimMax));
    shape.value_dim = 1;
  }
  const bool conv = fields.Bool("use_short_conv", true);
  shape.conv_bias = fields.Bool("conv_bias", false);
  const int64_t width =
      fields.Int("conv_size", kConvWidthMin, kConvWidthMax, 4);
  shape.conv_width = conv ? Int32(width) : 0;
  if (!conv) shape.conv_bias = false;
  const std::string gate = fields.OneOf(
      "output_gate_activation", {"swish", "silu", "sigmoid"}, "swish");
  shape.gate = gate == "sigmoid" ? GateKind::kSigmoid : GateKind::kSilu;
  if (!fields.Bool("use_gate", true)) shape.gate = GateKind::kNone;
  shape.negative_eigenvalues = fields.Bool("allow_neg_eigval", false);
  config.eps = static_cast<float>(fields.Number("norm_eps", kEpsMin, 1, 1e-6));
  shape.eps = config.eps;
  config.intermediate = ParseIntermediate(fields, config.hidden);
  config.trained_length = static_cast<uint64_t>(
      fields.Int("max_position_embeddings", 1, int64_t{1} << 40, 0));
  fields.OneOf("hidden_act", {"swish", "silu"}, "swish");
  fields.OneOf(
      "attn_mode", {"chunk", "fused_chunk", "fused_recurrent"}, "chunk");
  fields.Null("attn",
              "layers of attention beside the recurrent ones are not served");
  fields.Null("attnres_block_size",
              "attention over residual blocks is not served");
  if (!fields.Bool("elementwise_affine", true)) {
    fields.Fail("elementwise_affine", "norms without weights are not served");
  }
  config.mixer = shape;
}

// A limit of the time step: a number, or one of the ways to write infinity.
double TimeStepLimit(const json& value) {
  if (value.is_number()) return value.get<double>();
  const json* word = &value;
  if (value.is_object() && value.size() == 1 && value.contains("__float__")) {
    word = &value["__float__"];
  }
  for (const char* infinity : {"Infinity", "inf", "Inf", "+inf"}) {
    if (*word == infinity) return std::numeric_limits<double>::infinity();
  }
  return std::numeric_limits<double>::quiet_NaN();
}

void ParseTimeStepLimit(ConfigFields& fields, Mamba2Shape& shape) {
  const json& limit = fields.Raw("time_step_limit");
  shape.dt_min = 0;
  shape.dt_max = std::numeric_limits<float>::infinity();
  if (limit.is_null()) return;
  double low = NAN;
  double high = NAN;
  if (limit.is_array() && limit.size() == 2) {
    low = TimeStepLimit(limit[0]);
    high = TimeStepLimit(limit[1]);
  }
  if (!(low >= 0 && low < high && std::isfinite(low))) {
    fields.Fail("time_step_limit",
                "is not two numbers, the first at least 0 and below the "
                "second");
    return;
  }
  shape.dt_min = static_cast<float>(low);
  shape.dt_max = static_cast<float>(high);
}

void ParseMamba2(ConfigFields& fields, ModelConfig& config) {
  if (!fields.Has("layer_norm_epsilon") && fields.Has("norm_eps")) {
    fields.Fail("norm_eps",
                "marks flash-linear-attention's mamba2, which normalises "
                "otherwise; only transformers' mamba2, which says "
                "layer_norm_epsilon, is served");
  }
  Mamba2Shape shape;
  shape.hidden = config.hidden;
  shape.heads = Int32(fields.Int("num_heads", 1, kHeadsMax));
  shape.head_dim = Int32(fields.Int("head_dim", 1, kHeadDimMax));
  shape.groups = Int32(fields.Int("n_groups", 1, kHeadsMax));
  shape.state_dim = Int32(fields.Int("state_size", 1, kHeadDimMax));
  const double inner = fields.Number("expand", 0, 64) * config.hidden;
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
  shape.conv_width =
      Int32(fields.Int("conv_kernel", kConvWidthMin, kConvWidthMax, 4));
  shape.conv_bias = fields.Bool("use_conv_bias", true);
  shape.bias = fields.Bool("use_bias", false);
  ParseTimeStepLimit(fields, shape);
  config.eps =
      static_cast<float>(fields.Number("layer_norm_epsilon", kEpsMin, 1));
  shape.eps = config.eps;
  config.trained_length = static_cast<uint64_t>(
      fields.Int("max_position_embeddings", 1, int64_t{1} << 40, 0));
  fields.OneOf("hidden_act", {"silu", "swish"}, "silu");
  if (!fields.Bool("rms_norm", true)) {
    fields.Fail("rms_norm", "a mixer without its norm is not served");
  }
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
  config.mixer = shape;
}

}  // namespace

absl::StatusOr<ModelConfig> ParseConfig(std::string_view text,
                                        const std::string& path) {
  auto object = ParseStrictJson(QuoteNonFiniteWords(text),
                                {.depth = 16, .values = 100'000});
  if (!object.ok()) {
    return absl::InvalidArgumentError(absl::StrCat(
        "CONFIG: ", path, ": ", std::string(object.status().message())));
  }
  if (!object->is_object()) {
    return absl::InvalidArgumentError(
        absl::StrCat("CONFIG: ", path, ": not an object"));
  }
  ConfigFields fields(*object, path);
  ModelConfig config;
  const json& family = fields.Raw("model_type");
  if (family == "gated_deltanet") {
    config.family = "gated_deltanet";
    ParseShared(fields, config);
    ParseGatedDeltaNet(fields, config);
  } else if (family == "mamba2") {
    config.family = "mamba2";
    ParseShared(fields, config);
    ParseMamba2(fields, config);
  } else {
    return absl::InvalidArgumentError(
        absl::StrCat("CONFIG: ",
                     path,
                     ": key \"model_type\": ",
                     Quoted(family.dump(-1, ' ', true)),
                     " is not served; gated_deltanet and mamba2 are"));
  }
  WEIR_RETURN_IF_ERROR(fields.Finish());
  return config;
}

}  // namespace weir::engine
