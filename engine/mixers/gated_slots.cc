// SPDX-License-Identifier: Apache-2.0
#include "engine/mixers/gated_slots.h"

#include <algorithm>
#include <cstddef>
#include <memory>
#include <string>
#include <utility>

#include "engine/kernels/activation.h"
#include "engine/kernels/pointwise.h"
#include "engine/kernels/slots.h"
#include "engine/mixers/fla_decoder.h"
#include "engine/mixers/parallel.h"

namespace weir::engine {
namespace {

// The mixer's own norm has this eps in every checkpoint, whatever norm_eps is.
constexpr float kNormEps = 1e-5F;

}  // namespace

GatedSlots::GatedSlots(const GatedSlotsShape& shape)
    : shape_(shape),
      qkv_(shape.qkv, slots()),
      feature_(shape.feature == SlotFeature::kLearned
                   ? int64_t{shape.qkv.key_dim} * shape.qkv.key_dim
                   : 0),
      out_projection_(qkv_.values(), shape.qkv.hidden, false),
      norm_(qkv_.values()) {}

float GatedSlots::norm_eps() const { return kNormEps; }

std::vector<WeightSlot> GatedSlots::Weights() {
  const int64_t dim = shape_.qkv.key_dim;
  std::vector<WeightSlot> tensors = qkv_.Weights();
  tensors.push_back(
      qkv_.Extra("f_proj.weight", 0, slots() / shape_.qkv.sharing));
  tensors.back().copies = shape_.qkv.sharing;
  tensors.back().block = shape_.slots;
  if (shape_.feature == SlotFeature::kLearned) {
    tensors.push_back({.name = "feature_map.layer.weight",
                       .shape = {dim, dim},
                       .buffer = &feature_});
  }
  tensors.push_back(
      {.name = "g_norm.weight", .shape = {qkv_.values()}, .buffer = &norm_});
  tensors.push_back(
      out_projection_.Rows("o_proj.weight", 0, shape_.qkv.hidden));
  return tensors;
}

SlotShape GatedSlots::slot_shape() const {
  return {.heads = shape_.qkv.heads,
          .key_dim = shape_.qkv.key_dim,
          .value_dim = shape_.qkv.value_dim,
          .slots = shape_.slots};
}

std::vector<StateTensor> GatedSlots::State() const {
  std::vector<StateTensor> tensors = SlotStates(slot_shape());
  for (StateTensor& tensor : qkv_.State()) tensors.push_back(std::move(tensor));
  return tensors;
}

int64_t GatedSlots::workspace_floats() const {
  return qkv_.workspace_floats() + 3 * qkv_.keys() + 2 * qkv_.values() +
         3 * slots();
}

GatedSlots::Parts GatedSlots::PartsOf(int64_t tokens, float* workspace) const {
  Parts parts;
  parts.q = workspace + tokens * qkv_.workspace_floats();
  parts.k = parts.q + tokens * qkv_.keys();
  parts.raw = parts.k + tokens * qkv_.keys();
  parts.v = parts.raw + tokens * qkv_.keys();
  parts.out = parts.v + tokens * qkv_.values();
  parts.log2_decay = parts.out + tokens * qkv_.values();
  parts.write = parts.log2_decay + tokens * slots();
  parts.weights = parts.write + tokens * slots();
  return parts;
}

void GatedSlots::Feature(const float* x,
                         int64_t stride,
                         int64_t tokens,
                         float* raw,
                         float* y) const {
  const int64_t width = qkv_.keys();
  if (shape_.feature == SlotFeature::kSilu) {
    ParallelFor(tokens, 10 * width, [&](int64_t begin, int64_t end) {
      SiluMultiply({x, stride}, {}, static_cast<int32_t>(width), y, begin, end);
    });
    return;
  }
  const bool learned = shape_.feature == SlotFeature::kLearned;
  float* copy = learned ? raw : y;
  for (int64_t t = 0; t < tokens; ++t) {
    std::copy_n(x + t * stride, width, copy + t * width);
  }
  if (learned) {
    const int64_t dim = shape_.qkv.key_dim;
    MatMul({copy, dim},
           tokens * shape_.qkv.heads,
           dim,
           feature_.data(),
           dim,
           /*bias=*/nullptr,
           y);
  }
  Activate(Activation::kRelu, y, tokens * width);
}

void GatedSlots::Gate(const Batch& batch,
                      TokenRows f,
                      const Parts& parts) const {
  const SlotGateArgs gates = {.width = static_cast<int32_t>(slots()),
                              .f = f,
                              .scale = 1 / shape_.normalizer,
                              .log2_decay = parts.log2_decay,
                              .write = parts.write};
  if (batch.form == Form::kReference) {
    SlotGatesReference(gates, 0, batch.tokens);
    return;
  }
  ParallelFor(batch.tokens, 20 * slots(), [&](int64_t begin, int64_t end) {
    SlotGates(gates, begin, end);
  });
}

void GatedSlots::Finish(int64_t tokens, const Parts& parts, float* out) const {
  const int64_t width = qkv_.values();
  const NormArgs norm = {.width = static_cast<int32_t>(width),
                         .weight = norm_.data(),
                         .eps = kNormEps};
  ParallelFor(tokens, 10 * width, [&](int64_t begin, int64_t end) {
    SiluMultiply({parts.out, width}, {}, norm.width, parts.v, begin, end);
    Norm(norm, {parts.v, width}, parts.v, begin, end);
  });
  out_projection_.Forward(parts.v, tokens, out);
}

void GatedSlots::Forward(const MixerInput& input,
                         float* workspace,
                         float* out) const {
  const int64_t tokens = input.batch->tokens;
  const int64_t values = qkv_.values();
  const Parts parts = PartsOf(tokens, workspace);
  const QkvProjection::Result qkv =
      qkv_.Forward(input, input.state.first + 2, workspace);
  Feature(qkv.q, qkv.stride, tokens, parts.raw, parts.q);
  Feature(qkv.k, qkv.stride, tokens, parts.raw, parts.k);
  ParallelFor(tokens, 10 * values, [&](int64_t begin, int64_t end) {
    SiluMultiply({qkv.v, qkv.stride},
                 {},
                 static_cast<int32_t>(values),
                 parts.v,
                 begin,
                 end);
  });
  Gate(*input.batch, qkv.extra, parts);
  RunSlots(input,
           {.shape = slot_shape(),
            .q = {parts.q, qkv_.keys()},
            .k = {parts.k, qkv_.keys()},
            .v = {parts.v, values},
            .key_write = {parts.write, slots()},
            .value_write = {parts.write, slots()},
            .decay_by_slot = true,
            .log2_decay = {parts.log2_decay, slots()},
            .weights = parts.weights,
            .out = parts.out});
  Finish(tokens, parts, out);
}

void ReadGatedSlots(ConfigFields& fields, DecoderSpec& spec) {
  ReadFlaSizes(fields, spec);
  GatedSlotsShape shape;
  QkvShape& qkv = shape.qkv;
  qkv.hidden = spec.hidden;
  ReadHeads(fields, qkv);
  // The published class takes the factors under misspelt names, and writes them
  // under the right ones.
  const auto factor = [&fields](const char* right, const char* misspelt) {
    return fields.Has(right) ? right : misspelt;
  };
  qkv.key_dim = HeadDim(
      fields, factor("expand_k", "exapnd_k"), 1.0, spec.hidden, qkv.heads);
  const char* expand_v = factor("expand_v", "exapnd_v");
  qkv.value_dim = HeadDim(fields, expand_v, 1.0, spec.hidden, qkv.heads);
  if (int64_t{qkv.value_dim} * qkv.heads != spec.hidden) {
    fields.Fail(
        expand_v,
        "is not 1, and the norm over all heads has hidden_size channels");
  }
  ReadConvolution(fields, false, qkv);
  const auto& slots = fields.Raw("num_slots");
  shape.slots = static_cast<int32_t>(fields.Int(
      "num_slots",
      1,
      kChannelsMax,
      fields.Has("num_slots") && slots.is_null() ? qkv.key_dim : 64));
  shape.normalizer =
      static_cast<float>(fields.Number("gate_logit_normalizer", 0, 1e6, 8.0));
  const std::string feature =
      fields.OneOf("feature_map", {"swish", "relu", "t2r"}, "swish");
  shape.feature = feature == "swish"  ? SlotFeature::kSilu
                  : feature == "relu" ? SlotFeature::kRelu
                                      : SlotFeature::kLearned;
  // Read by the published class and used by nothing in it.
  for (const char* key : {"use_output_gate", "use_norm"}) {
    fields.Bool(key, false);
  }
  fields.Ignore({"clamp_min", "clamp_max"});
  ReadFlaLayers(fields, spec, [shape](int32_t) {
    return std::make_unique<GatedSlots>(shape);
  });
}

}  // namespace weir::engine
