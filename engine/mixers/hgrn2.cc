// SPDX-License-Identifier: Apache-2.0
#include "engine/mixers/hgrn2.h"

#include <cmath>
#include <cstddef>
#include <utility>

#include "absl/strings/str_cat.h"
#include "engine/kernels/channel_gates.h"
#include "engine/kernels/pointwise.h"
#include "engine/mixers/fla_decoder.h"
#include "engine/mixers/parallel.h"

namespace weir::engine {
namespace {

// Of the norm at the mixer's end; no configuration names it.
constexpr float kNormEps = 1e-5F;

}  // namespace

Hgrn2::Hgrn2(const Hgrn2Shape& shape, std::shared_ptr<Buffer> bounds)
    : shape_(shape),
      bounds_(std::move(bounds)),
      projection_(shape.hidden, 2 * keys() + values(), false),
      out_projection_(values(), shape.hidden, false),
      norm_(values()) {}

std::vector<WeightSlot> Hgrn2::Weights() {
  return {projection_.Rows("q_proj.weight", 0, keys()),
          projection_.Rows("f_proj.weight", keys(), keys()),
          projection_.Rows("i_proj.weight", 2 * keys(), values()),
          out_projection_.Rows("o_proj.weight", 0, shape_.hidden),
          {.name = "g_norm.weight", .shape = {values()}, .buffer = &norm_}};
}

std::vector<StateTensor> Hgrn2::State() const {
  return {{.name = "recurrent",
           .shape = {shape_.heads, shape_.value_dim, shape_.key_dim}}};
}

int64_t Hgrn2::workspace_floats() const {
  return projection_.outputs() + 3 * keys() + values();
}

void Hgrn2::Prepare() {
  if (bounds_ == nullptr || shape_.layer == 0) return;
  low_.resize(static_cast<size_t>(keys()));
  for (int64_t i = 0; i < keys(); ++i) {
    const auto bound = [&](int64_t layer) {
      return double{bounds_->data()[layer * keys() + i]};
    };
    double most = bound(0);
    for (int64_t n = 1; n < shape_.layers; ++n)
      most = std::fmax(most, bound(n));
    double all = 0;
    double below = 0;
    for (int64_t n = 0; n < shape_.layers; ++n) {
      const double part = std::exp(bound(n) - most);
      all += part;
      if (n > 0 && n <= shape_.layer) below += part;
    }
    low_[static_cast<size_t>(i)] = static_cast<float>(below / all);
  }
}

void Hgrn2::Forward(const MixerInput& input,
                    float* workspace,
                    float* out) const {
  const Batch& batch = *input.batch;
  const int64_t tokens = batch.tokens;
  const int64_t width = projection_.outputs();
  float* projected = workspace;
  float* q = projected + tokens * width;
  float* k = q + tokens * keys();
  float* log2_decay = k + tokens * keys();
  float* mixed_out = log2_decay + tokens * keys();

  projection_.Forward(input.x, tokens, projected);
  const float scale = 1.0F / std::sqrt(static_cast<float>(shape_.key_dim));
  const HgrnGateArgs gates = {.width = static_cast<int32_t>(keys()),
                              .f = {projected + keys(), width},
                              .low = low_.empty() ? nullptr : low_.data(),
                              .log2_decay = log2_decay,
                              .k = k};
  ParallelFor(tokens, 32 * keys(), [&](int64_t begin, int64_t end) {
    SiluMultiply(
        {projected, width}, {}, static_cast<int32_t>(keys()), q, begin, end);
    for (int64_t i = begin * keys(); i < end * keys(); ++i) q[i] *= scale;
    HgrnGates(gates, begin, end);
  });
  RunRecurrence(batch,
                {.decay = DecayKind::kKey,
                 .heads = shape_.heads,
                 .key_heads = shape_.heads,
                 .key_dim = shape_.key_dim,
                 .value_dim = shape_.value_dim,
                 .q = {q, keys()},
                 .k = {k, keys()},
                 .v = {projected + 2 * keys(), width},
                 .log2_decay = {log2_decay, keys()},
                 .out = mixed_out,
                 .out_stride = values(),
                 .state = input.state.pool->base(input.state.first),
                 .state_stride = input.state.pool->stride(input.state.first)});
  const NormArgs norm = {.width = static_cast<int32_t>(values()),
                         .weight = norm_.data(),
                         .eps = shape_.eps};
  ParallelFor(tokens, 2 * values(), [&](int64_t begin, int64_t end) {
    Norm(norm, {mixed_out, values()}, mixed_out, begin, end);
  });
  out_projection_.Forward(mixed_out, tokens, out);
}

void ReadHgrn2(ConfigFields& fields, DecoderSpec& spec) {
  ReadFlaSizes(fields, spec);
  Hgrn2Shape shape;
  shape.hidden = spec.hidden;
  shape.layers = spec.layers;
  shape.eps = kNormEps;
  // One of the two says the other: keys are as wide as the model.
  const int64_t ratio = fields.Int("expand_ratio", 1, kHeadDimMax, 128);
  const int64_t heads =
      fields.Int("num_heads", 1, kHeadsMax, spec.hidden / ratio);
  if (heads < 1 || heads * ratio != spec.hidden) {
    fields.Fail("expand_ratio",
                absl::StrCat(ratio,
                             " times num_heads, ",
                             heads,
                             ", is not hidden_size, ",
                             spec.hidden));
    return;
  }
  shape.heads = static_cast<int32_t>(heads);
  shape.key_dim = static_cast<int32_t>(ratio);
  shape.value_dim = static_cast<int32_t>(ratio);
  if (fields.Bool("use_short_conv", false)) {
    fields.Fail("use_short_conv", "convolutions are not served here");
  }
  fields.Ignore({"conv_size"});
  fields.OneOf(
      "attn_mode", {"chunk", "fused_chunk", "fused_recurrent"}, "chunk");
  std::shared_ptr<Buffer> bounds;
  if (fields.Bool("use_lower_bound", true)) {
    bounds = std::make_shared<Buffer>(int64_t{spec.layers} * spec.hidden);
    spec.shared.push_back({.name = "model.lower_bounds",
                           .shape = {spec.layers, spec.hidden},
                           .buffer = bounds.get()});
  }
  ReadFlaLayers(fields, spec, [shape, bounds](int32_t layer) {
    Hgrn2Shape own = shape;
    own.layer = layer;
    return std::make_unique<Hgrn2>(own, bounds);
  });
}

}  // namespace weir::engine
