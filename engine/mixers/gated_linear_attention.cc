// SPDX-License-Identifier: Apache-2.0
#include "engine/mixers/gated_linear_attention.h"

#include <memory>
#include <utility>

#include "engine/kernels/channel_gates.h"
#include "engine/mixers/fla_decoder.h"
#include "engine/mixers/parallel.h"

namespace weir::engine {
namespace {

constexpr int64_t kRank = 16;  // of the decay; no configuration names it

}  // namespace

GatedLinearAttention::GatedLinearAttention(
    const GatedLinearAttentionShape& shape)
    : shape_(shape),
      down_column_(shape.gate ? int64_t{shape.qkv.heads} * shape.qkv.value_dim
                              : 0),
      qkv_(shape.qkv, down_column_ + kRank),
      decay_up_(kRank, keys(), true),
      output_(shape.qkv,
              shape.eps,
              shape.gate ? GateKind::kSilu : GateKind::kNone,
              shape.gate && shape.fused_norm ? "g_norm_swish_gate.weight"
                                             : "g_norm.weight") {}

std::vector<WeightSlot> GatedLinearAttention::Weights() {
  std::vector<WeightSlot> slots = qkv_.Weights();
  if (shape_.gate) slots.push_back(qkv_.Extra("g_proj.weight", 0, values()));
  slots.push_back(qkv_.Extra("gk_proj.0.weight", down_column_, kRank));
  const int64_t stored = keys() / shape_.qkv.sharing;
  for (WeightSlot slot : {decay_up_.Rows("gk_proj.1.weight", 0, stored),
                          decay_up_.Bias("gk_proj.1.bias", 0, stored)}) {
    slot.copies = shape_.qkv.sharing;
    slot.block = shape_.qkv.key_dim;
    slots.push_back(std::move(slot));
  }
  for (WeightSlot& slot : output_.Weights()) slots.push_back(std::move(slot));
  return slots;
}

std::vector<StateTensor> GatedLinearAttention::State() const {
  return qkv_.RecurrentState();
}

int64_t GatedLinearAttention::workspace_floats() const {
  return qkv_.workspace_floats() + keys() + values();
}

void GatedLinearAttention::Forward(const MixerInput& input,
                                   float* workspace,
                                   float* out) const {
  const Batch& batch = *input.batch;
  const int64_t tokens = batch.tokens;
  float* log2_decay = workspace + tokens * qkv_.workspace_floats();
  float* mixed_out = log2_decay + tokens * keys();

  const QkvProjection::Result qkv =
      qkv_.Forward(input, input.state.first + 1, workspace);
  qkv_.ScaleQueries(qkv, tokens);
  const TokenRows extra = qkv.extra;
  const TokenRows down = {extra.data + down_column_, extra.stride};
  decay_up_.Forward(down, tokens, log2_decay);
  const LogSigmoidArgs decays = {.width = static_cast<int32_t>(keys()),
                                 .x = {log2_decay, keys()},
                                 .scale = 1 / shape_.normalizer,
                                 .low = shape_.low,
                                 .log2_decay = log2_decay};
  ParallelFor(tokens, 8 * keys(), [&](int64_t begin, int64_t end) {
    LogSigmoidDecays(decays, begin, end);
  });
  RecurrenceArgs recurrence = qkv_.Recurrence(input, qkv, mixed_out);
  recurrence.decay = DecayKind::kKey;
  recurrence.log2_decay = {log2_decay, keys()};
  RunRecurrence(batch, recurrence);
  output_.Forward({mixed_out, values()}, extra, tokens, mixed_out, out);
}

void ReadGatedLinearAttention(ConfigFields& fields, DecoderSpec& spec) {
  ReadFlaSizes(fields, spec);
  GatedLinearAttentionShape shape;
  shape.eps = spec.norm.eps;
  QkvShape& qkv = shape.qkv;
  qkv.hidden = spec.hidden;
  ReadHeads(fields, qkv);
  qkv.key_dim = HeadDim(fields, "expand_k", 0.5, spec.hidden, qkv.heads);
  qkv.value_dim = HeadDim(fields, "expand_v", 1.0, spec.hidden, qkv.heads);
  ReadConvolution(fields, false, qkv);
  shape.gate = fields.Bool("use_output_gate", true);
  shape.fused_norm = fields.Bool("fuse_norm", true);
  shape.normalizer =
      static_cast<float>(fields.Number("gate_logit_normalizer", 0, 1e4, 16));
  if (!fields.Raw("clamp_min").is_null()) {
    shape.low = static_cast<float>(fields.Number("clamp_min", -1e4, -1e-6));
  }
  ReadKeyMap(fields, qkv);
  if (!fields.Bool("use_gk", true)) {
    fields.Fail("use_gk", "a mixer without its decay is not served");
  }
  if (fields.Bool("use_gv", false)) {
    fields.Fail("use_gv", "decays of value channels are not served here");
  }
  fields.OneOf(
      "attn_mode", {"chunk", "fused_chunk", "fused_recurrent"}, "chunk");
  ReadFlaLayers(fields, spec, [shape](int32_t) {
    return std::make_unique<GatedLinearAttention>(shape);
  });
}

}  // namespace weir::engine
