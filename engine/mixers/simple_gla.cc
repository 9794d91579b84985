// SPDX-License-Identifier: Apache-2.0
#include "engine/mixers/simple_gla.h"

#include <memory>
#include <string>
#include <utility>

#include "engine/kernels/channel_gates.h"
#include "engine/mixers/fla_decoder.h"
#include "engine/mixers/parallel.h"

namespace weir::engine {

SimpleGla::SimpleGla(const SimpleGlaShape& shape)
    : shape_(shape),
      qkv_(shape.qkv,
           int64_t{shape.qkv.heads} * shape.qkv.value_dim + shape.qkv.heads),
      output_(shape.qkv,
              shape.eps,
              shape.gate,
              shape.fused_norm ? "g_norm_swish_gate.weight" : "g_norm.weight"),
      decay_bias_(shape.qkv.heads) {}

std::vector<WeightSlot> SimpleGla::Weights() {
  const int64_t heads = shape_.qkv.heads;
  std::vector<WeightSlot> slots = qkv_.Weights();
  slots.push_back(qkv_.Extra("g_proj.weight", 0, values()));
  slots.push_back(qkv_.Extra("gk_proj.weight", values(), heads));
  slots.push_back(
      {.name = "gk_proj.bias", .shape = {heads}, .buffer = &decay_bias_});
  for (WeightSlot& slot : output_.Weights()) slots.push_back(std::move(slot));
  return slots;
}

std::vector<StateTensor> SimpleGla::State() const {
  return qkv_.RecurrentState();
}

int64_t SimpleGla::workspace_floats() const {
  return qkv_.workspace_floats() + shape_.qkv.heads + values();
}

void SimpleGla::Decays(TokenRows gk, int64_t tokens, float* log2_decay) const {
  const int32_t heads = shape_.qkv.heads;
  const LogSigmoidArgs decays = {.width = heads,
                                 .x = {log2_decay, heads},
                                 .scale = 1 / shape_.normalizer,
                                 .log2_decay = log2_decay};
  ParallelFor(tokens, 8 * heads, [&](int64_t begin, int64_t end) {
    for (int64_t t = begin; t < end; ++t) {
      const float* from = gk.data + t * gk.stride;
      for (int32_t h = 0; h < heads; ++h) {
        log2_decay[t * heads + h] = from[h] + decay_bias_.data()[h];
      }
    }
    LogSigmoidDecays(decays, begin, end);
  });
}

void SimpleGla::Forward(const MixerInput& input,
                        float* workspace,
                        float* out) const {
  const Batch& batch = *input.batch;
  const int64_t tokens = batch.tokens;
  const int32_t heads = shape_.qkv.heads;
  float* log2_decay = workspace + tokens * qkv_.workspace_floats();
  float* mixed_out = log2_decay + tokens * heads;

  const QkvProjection::Result qkv =
      qkv_.Forward(input, input.state.first + 1, workspace);
  qkv_.ScaleQueries(qkv, tokens);
  Decays({qkv.extra.data + values(), qkv.extra.stride}, tokens, log2_decay);
  RecurrenceArgs recurrence = qkv_.Recurrence(input, qkv, mixed_out);
  recurrence.log2_decay = {log2_decay, heads};
  RunRecurrence(batch, recurrence);
  output_.Forward({mixed_out, values()}, qkv.extra, tokens, mixed_out, out);
}

void ReadSimpleGla(ConfigFields& fields, DecoderSpec& spec) {
  ReadFlaSizes(fields, spec);
  SimpleGlaShape shape;
  shape.eps = spec.norm.eps;
  QkvShape& qkv = shape.qkv;
  qkv.hidden = spec.hidden;
  ReadHeads(fields, qkv);
  qkv.key_dim = HeadDim(fields, "expand_k", 1.0, spec.hidden, qkv.heads);
  qkv.value_dim = HeadDim(fields, "expand_v", 1.0, spec.hidden, qkv.heads);
  ReadConvolution(fields, true, qkv);
  const std::string gate =
      fields.OneOf("gate_fn", {"swish", "silu", "sigmoid"}, "swish");
  shape.gate = gate == "sigmoid" ? GateKind::kSigmoid : GateKind::kSilu;
  // The layer fuses the two for "swish" alone, by that name.
  shape.fused_norm = fields.Bool("fuse_norm", true) && gate == "swish";
  shape.normalizer =
      static_cast<float>(fields.Number("gate_logit_normalizer", 0, 1e4, 16));
  fields.Null("feature_map", "features of keys are not served here");
  fields.OneOf("attn_mode", {"chunk", "fused_recurrent"}, "chunk");
  ReadFlaLayers(fields, spec, [shape](int32_t) {
    return std::make_unique<SimpleGla>(shape);
  });
}

}  // namespace weir::engine
