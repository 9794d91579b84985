// SPDX-License-Identifier: Apache-2.0
#include "engine/mixers/lightning.h"

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <memory>
#include <string>

#include "absl/strings/str_cat.h"
#include "engine/kernels/pointwise.h"
#include "engine/mixers/fla_decoder.h"
#include "engine/mixers/parallel.h"

namespace weir::engine {
namespace {

constexpr int64_t kParts = 3;  // q, k and v
// The norm's, in every model; no configuration names it.
constexpr float kNormEps = 1e-6F;
constexpr const char* kQkvName = "qkv_proj.weight";

double Slope(const LightningShape& shape, int32_t layer, int32_t head) {
  const double heads = shape.heads;
  if (shape.slopes == Slopes::kFla) {
    return 8 * head / heads * (1 - double(layer) / shape.layers);
  }
  return std::exp2(-8 * (head + 1) / heads) *
         (1 - layer / (shape.layers - 1 + 1e-5) + 1e-5);
}

}  // namespace

Lightning::Lightning(const LightningShape& shape, int32_t layer)
    : shape_(shape),
      projection_(shape.hidden, (kParts + 1) * width(), false),
      out_projection_(width(), shape.hidden, false),
      norm_(width()) {
  for (int32_t h = 0; h < shape.heads; ++h) {
    log2_decay_.push_back(
        static_cast<float>(-Slope(shape, layer, h) / std::log(2.0)));
  }
}

float Lightning::norm_eps() const { return kNormEps; }

std::vector<WeightSlot> Lightning::Weights() {
  return {projection_.Rows(kQkvName, 0, kParts * width()),
          projection_.Rows("output_gate.weight", kParts * width(), width()),
          out_projection_.Rows("out_proj.weight", 0, shape_.hidden),
          {.name = "norm.weight", .shape = {width()}, .buffer = &norm_}};
}

std::vector<StateTensor> Lightning::State() const {
  return {{.name = "recurrent",
           .shape = {shape_.heads, shape_.head_dim, shape_.head_dim}}};
}

int64_t Lightning::workspace_floats() const {
  return projection_.outputs() + (kParts + 1) * width();
}

void Lightning::Prepare() {
  const WeightSlot slot = projection_.Rows(kQkvName, 0, kParts * width());
  const int64_t block = int64_t{shape_.head_dim} * shape_.hidden;
  float* weight = slot.buffer->data() + slot.offset;
  const std::vector<float> stored(weight,
                                  weight + kParts * shape_.heads * block);
  for (int64_t h = 0; h < shape_.heads; ++h) {
    for (int64_t part = 0; part < kParts; ++part) {
      std::copy_n(stored.data() + (h * kParts + part) * block,
                  block,
                  weight + (part * shape_.heads + h) * block);
    }
  }
}

void Lightning::Forward(const MixerInput& input,
                        float* workspace,
                        float* out) const {
  const Batch& batch = *input.batch;
  const int64_t tokens = batch.tokens;
  const int64_t stride = projection_.outputs();
  const int64_t qkv_width = kParts * width();
  float* qkv = workspace + tokens * stride;
  float* mixed_out = qkv + tokens * qkv_width;

  projection_.Forward(input.x, tokens, workspace);
  const bool scaled = shape_.slopes == Slopes::kFla;
  const float scale = 1 / std::sqrt(static_cast<float>(shape_.head_dim));
  ParallelFor(tokens, qkv_width, [&](int64_t begin, int64_t end) {
    SiluMultiply({workspace, stride},
                 {},
                 static_cast<int32_t>(qkv_width),
                 qkv,
                 begin,
                 end);
    for (int64_t t = begin; scaled && t < end; ++t) {
      float* q = qkv + t * qkv_width;
      for (int64_t i = 0; i < width(); ++i) q[i] *= scale;
    }
  });
  RunRecurrence(batch,
                {.heads = shape_.heads,
                 .key_heads = shape_.heads,
                 .key_dim = shape_.head_dim,
                 .value_dim = shape_.head_dim,
                 .q = {qkv, qkv_width},
                 .k = {qkv + width(), qkv_width},
                 .v = {qkv + 2 * width(), qkv_width},
                 .log2_decay = {log2_decay_.data(), 0},
                 .out = mixed_out,
                 .out_stride = width(),
                 .state = input.state.pool->base(input.state.first),
                 .state_stride = input.state.pool->stride(input.state.first)});
  const GatedNormArgs norm = {.groups = 1,
                              .width = static_cast<int32_t>(width()),
                              .x = {mixed_out, width()},
                              .z = {workspace + qkv_width, stride},
                              .weight = norm_.data(),
                              .shared_weight = true,
                              .eps = kNormEps,
                              .gate = GateKind::kSigmoid,
                              .order = GateOrder::kAfterNorm,
                              .out = mixed_out};
  ParallelFor(tokens, 2 * width(), [&](int64_t begin, int64_t end) {
    GatedNorm(norm, begin, end);
  });
  out_projection_.Forward(mixed_out, tokens, out);
}

void ReadLightning(ConfigFields& fields, DecoderSpec& spec) {
  ReadFlaSizes(fields, spec);
  LightningShape shape;
  shape.hidden = spec.hidden;
  shape.layers = spec.layers;
  shape.heads = static_cast<int32_t>(fields.Int("num_heads", 1, kHeadsMax));
  const int64_t share = spec.hidden / shape.heads;
  if (fields.Raw("head_dim").is_null() &&
      (share * shape.heads != spec.hidden || share > kHeadDimMax)) {
    fields.Fail("num_heads",
                absl::StrCat("without head_dim they share hidden_size evenly, ",
                             "1 to ",
                             kHeadDimMax,
                             " each"));
  }
  shape.head_dim = static_cast<int32_t>(
      fields.Int("head_dim", 1, kHeadDimMax, std::max<int64_t>(share, 1)));
  shape.slopes = fields.OneOf("slopes", {"minimax", "fla"}, "minimax") == "fla"
                     ? Slopes::kFla
                     : Slopes::kMiniMax;
  ReadFlaLayers(fields, spec, [shape](int32_t layer) {
    return std::make_unique<Lightning>(shape, layer);
  });
}

}  // namespace weir::engine
