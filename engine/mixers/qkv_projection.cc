// SPDX-License-Identifier: Apache-2.0
#include "engine/mixers/qkv_projection.h"

#include <cmath>
#include <string>
#include <utility>

#include "absl/strings/str_cat.h"
#include "engine/kernels/short_conv.h"
#include "engine/mixers/fla_decoder.h"
#include "engine/mixers/parallel.h"

namespace weir::engine {
namespace {

// What keeps the norm of q and k from zero, in every checkpoint; the
// configuration does not name it.
constexpr float kNormEps = 1e-6f;
// Rows of the projection begin at cache lines.
constexpr int64_t kRowFloats = 16;

int64_t RoundUp(int64_t value) {
  return (value + kRowFloats - 1) / kRowFloats * kRowFloats;
}

int64_t Mixed(const QkvShape& shape) {
  const int64_t keys = int64_t{shape.key_heads} * shape.key_dim;
  const int64_t values = int64_t{shape.heads} * shape.value_dim;
  return keys + shape.writes * (keys + values);
}

}  // namespace

void ReadHeads(ConfigFields& fields, QkvShape& shape) {
  shape.heads = static_cast<int32_t>(fields.Int("num_heads", 1, kHeadsMax));
  shape.key_heads = shape.heads;
  const int64_t stored = fields.Int("num_kv_heads", 1, kHeadsMax, shape.heads);
  if (shape.heads % stored != 0) {
    fields.Fail("num_kv_heads", "does not divide num_heads");
  }
  shape.sharing = static_cast<int32_t>(shape.heads / stored);
}

void ReadValueHeads(ConfigFields& fields, double expand_v, QkvShape& shape) {
  shape.key_heads = static_cast<int32_t>(fields.Int("num_heads", 1, kHeadsMax));
  shape.heads = static_cast<int32_t>(
      fields.Int("num_v_heads", 1, kHeadsMax, shape.key_heads));
  if (shape.heads % shape.key_heads != 0) {
    fields.Fail(
        "num_v_heads",
        absl::StrCat(
            shape.heads, " is no multiple of num_heads, ", shape.key_heads));
  }
  shape.key_dim = static_cast<int32_t>(fields.Int("head_dim", 1, kHeadDimMax));
  shape.value_dim = ScaledDim(fields, "expand_v", expand_v, shape.key_dim);
}

void ReadKeyMap(ConfigFields& fields, QkvShape& shape) {
  if (fields.Raw("feature_map").is_null()) return;
  const std::string name = fields.OneOf(
      "feature_map",
      {"relu", "relu2", "sqrelu", "sigmoid", "silu", "swish", "tanh"},
      "relu");
  shape.qk_map = name == "relu"                      ? Activation::kRelu
                 : name == "sigmoid"                 ? Activation::kSigmoid
                 : name == "tanh"                    ? Activation::kTanh
                 : name == "silu" || name == "swish" ? Activation::kSilu
                                                     : Activation::kSquaredRelu;
}

void ReadConvolution(ConfigFields& fields, bool otherwise, QkvShape& shape) {
  const bool conv = fields.Bool("use_short_conv", otherwise);
  const bool bias = fields.Bool("conv_bias", false);
  const int64_t width =
      fields.Int("conv_size", kConvWidthMin, kConvWidthMax, 4);
  shape.conv_width = conv ? static_cast<int32_t>(width) : 0;
  shape.conv_bias = conv && bias;
}

QkvProjection::QkvProjection(const QkvShape& shape, int64_t extra_columns)
    : shape_(shape),
      projection_(shape.hidden, RoundUp(Mixed(shape) + extra_columns), false),
      conv_(shape.conv_width * Mixed(shape)),
      conv_bias_(shape.conv_bias ? Mixed(shape) : 0) {}

std::vector<WeightSlot> QkvProjection::Weights() {
  struct Part {
    std::string name;
    int64_t first;
    int64_t channels;
    int32_t copies;
    int32_t block;
  };
  const int64_t written = shape_.writes * keys();
  std::vector<WeightSlot> slots;
  for (const Part& part :
       {Part{"q", 0, keys(), 1, shape_.key_dim},
        Part{"k", keys(), written, shape_.sharing, shape_.key_dim},
        Part{"v",
             keys() + written,
             shape_.writes * values(),
             shape_.sharing,
             shape_.value_dim}}) {
    const int64_t stored = part.channels / part.copies;
    slots.push_back(
        projection_.Rows(part.name + "_proj.weight", part.first, stored));
    slots.back().copies = part.copies;
    slots.back().block = part.block;
    if (shape_.conv_width == 0) continue;
    slots.push_back({.name = part.name + "_conv1d.weight",
                     .shape = {stored, 1, shape_.conv_width},
                     .buffer = &conv_,
                     .offset = part.first,
                     .taps_pitch = mixed(),
                     .copies = part.copies,
                     .block = part.block});
    if (!shape_.conv_bias) continue;
    slots.push_back({.name = part.name + "_conv1d.bias",
                     .shape = {stored},
                     .buffer = &conv_bias_,
                     .offset = part.first,
                     .copies = part.copies,
                     .block = part.block});
  }
  return slots;
}

WeightSlot QkvProjection::Extra(std::string name, int64_t first, int64_t rows) {
  return projection_.Rows(std::move(name), mixed() + first, rows);
}

std::vector<StateTensor> QkvProjection::State() const {
  if (shape_.conv_width == 0) return {};
  return {{.name = "conv", .shape = {shape_.conv_width - 1, mixed()}}};
}

std::vector<StateTensor> QkvProjection::RecurrentState() const {
  std::vector<StateTensor> tensors = {
      {.name = "recurrent",
       .shape = {shape_.heads, shape_.value_dim, shape_.key_dim}}};
  for (StateTensor& tensor : State()) tensors.push_back(std::move(tensor));
  return tensors;
}

int64_t QkvProjection::workspace_floats() const {
  return projection_.outputs() + (shape_.conv_width > 0 ? mixed() : 0);
}

QkvProjection::Result QkvProjection::Forward(const MixerInput& input,
                                             size_t conv,
                                             float* workspace) const {
  const Batch& batch = *input.batch;
  const int64_t width = projection_.outputs();
  float* projected = workspace;
  projection_.Forward(input.x, batch.tokens, projected);
  float* qkv = projected;
  int64_t stride = width;
  if (shape_.conv_width > 0) {
    qkv = projected + batch.tokens * width;
    stride = mixed();
    RunShortConv(batch,
                 {.channels = static_cast<int32_t>(mixed()),
                  .width = shape_.conv_width,
                  .plain = static_cast<int32_t>(plain()),
                  .x = {projected, width},
                  .weight = conv_.data(),
                  .bias = conv_bias_.data(),
                  .out = qkv,
                  .out_stride = mixed(),
                  .state = input.state.pool->base(conv),
                  .state_stride = input.state.pool->stride(conv)});
  }
  const Result result = {.q = qkv,
                         .k = qkv + keys(),
                         .v = qkv + keys() + shape_.writes * keys(),
                         .stride = stride,
                         .extra = {projected + mixed(), width}};
  Activations(result, batch.tokens);
  return result;
}

void QkvProjection::Activations(const Result& result, int64_t tokens) const {
  const bool silu = shape_.silu && shape_.conv_width == 0;
  if (!silu && shape_.qk_map == Activation::kNone) return;
  const int64_t mapped = (1 + shape_.writes) * keys();
  ParallelFor(tokens, mixed(), [&](int64_t begin, int64_t end) {
    for (int64_t t = begin; t < end; ++t) {
      float* x = result.q + t * result.stride;
      if (silu) Activate(Activation::kSilu, x + plain(), mixed() - plain());
      Activate(shape_.qk_map, x, mapped);
    }
  });
}

RecurrenceArgs QkvProjection::Recurrence(const MixerInput& input,
                                         const Result& result,
                                         float* out) const {
  StatePool& pool = *input.state.pool;
  return {.heads = shape_.heads,
          .key_heads = shape_.key_heads,
          .key_dim = shape_.key_dim,
          .value_dim = shape_.value_dim,
          .q = {result.q, result.stride},
          .k = {result.k, result.stride},
          .v = {result.v, result.stride},
          .log2_decay = {},
          .out = out,
          .out_stride = values(),
          .state = pool.base(input.state.first),
          .state_stride = pool.stride(input.state.first)};
}

float QkvProjection::norm_eps() { return kNormEps; }

float QkvProjection::QueryScale() const {
  return 1.0f / std::sqrt(static_cast<float>(shape_.key_dim));
}

void QkvProjection::Normalize(const Result& result,
                              int64_t tokens,
                              HeadNorm norm) const {
  const auto normalize =
      [&](float* x, int32_t heads, float scale, int64_t begin, int64_t end) {
        NormalizeHeads({.norm = norm,
                        .heads = heads,
                        .dim = shape_.key_dim,
                        .x = x,
                        .stride = result.stride,
                        .eps = kNormEps,
                        .scale = scale},
                       begin,
                       end);
      };
  const int32_t heads = shape_.key_heads;
  const int64_t cost = (shape_.writes + 1) * keys();
  ParallelFor(tokens, cost, [&](int64_t begin, int64_t end) {
    normalize(result.q, heads, QueryScale(), begin, end);
    normalize(result.k, shape_.writes * heads, 1.0f, begin, end);
  });
}

void QkvProjection::ScaleQueries(const Result& result, int64_t tokens) const {
  const float scale = QueryScale();
  const int64_t width = keys();
  ParallelFor(tokens, width, [&](int64_t begin, int64_t end) {
    for (int64_t t = begin; t < end; ++t) {
      float* q = result.q + t * result.stride;
      for (int64_t i = 0; i < width; ++i) q[i] *= scale;
    }
  });
}

}  // namespace weir::engine
