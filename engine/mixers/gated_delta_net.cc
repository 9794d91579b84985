// SPDX-License-Identifier: Apache-2.0
#include "engine/mixers/gated_delta_net.h"

#include <memory>
#include <string>
#include <utility>

#include "engine/mixers/fla_decoder.h"
#include "engine/mixers/parallel.h"

namespace weir::engine {
namespace {

int64_t GateColumns(const GatedDeltaNetShape& shape) {
  return shape.gate == GateKind::kNone
             ? 0
             : int64_t{shape.qkv.heads} * shape.qkv.value_dim;
}

}  // namespace

GatedDeltaNet::GatedDeltaNet(const GatedDeltaNetShape& shape)
    : shape_(shape),
      a_column_(GateColumns(shape)),
      b_column_(a_column_ + shape.qkv.heads),
      qkv_(shape.qkv, b_column_ + shape.qkv.heads),
      output_(shape.qkv, shape.eps, shape.gate),
      a_log_(shape.qkv.heads),
      dt_bias_(shape.qkv.heads) {}

std::vector<WeightSlot> GatedDeltaNet::Weights() {
  const int64_t heads = shape_.qkv.heads;
  std::vector<WeightSlot> slots = qkv_.Weights();
  slots.push_back(qkv_.Extra("a_proj.weight", a_column_, heads));
  slots.push_back(qkv_.Extra("b_proj.weight", b_column_, heads));
  if (shape_.gate != GateKind::kNone) {
    slots.push_back(qkv_.Extra("g_proj.weight", 0, values()));
  }
  slots.push_back({.name = "A_log", .shape = {heads}, .buffer = &a_log_});
  slots.push_back({.name = "dt_bias", .shape = {heads}, .buffer = &dt_bias_});
  for (WeightSlot& slot : output_.Weights()) slots.push_back(std::move(slot));
  return slots;
}

std::vector<StateTensor> GatedDeltaNet::State() const {
  return qkv_.RecurrentState();
}

int64_t GatedDeltaNet::workspace_floats() const {
  return qkv_.workspace_floats() + values() + 2 * shape_.qkv.heads;
}

void GatedDeltaNet::Forward(const MixerInput& input,
                            float* workspace,
                            float* out) const {
  const Batch& batch = *input.batch;
  const int64_t tokens = batch.tokens;
  const int32_t heads = shape_.qkv.heads;
  float* mixed_out = workspace + tokens * qkv_.workspace_floats();
  float* log2_decay = mixed_out + tokens * values();
  float* beta = log2_decay + tokens * heads;

  const QkvProjection::Result qkv =
      qkv_.Forward(input, input.state.first + 1, workspace);
  qkv_.Normalize(qkv, tokens);
  const TokenRows extra = qkv.extra;
  const DeltaGateArgs gates = {
      .heads = heads,
      .a = {extra.data + a_column_, extra.stride},
      .b = {extra.data + b_column_, extra.stride},
      .a_log = a_log_.data(),
      .dt_bias = dt_bias_.data(),
      .beta_scale = shape_.negative_eigenvalues ? 2.0f : 1.0f,
      .log2_decay = log2_decay,
      .beta = beta};
  // A gate takes two transcendental functions, worth some dozen floats.
  ParallelFor(tokens, int64_t{32} * heads, [&](int64_t begin, int64_t end) {
    DeltaGates(gates, begin, end);
  });
  RecurrenceArgs recurrence = qkv_.Recurrence(input, qkv, mixed_out);
  recurrence.log2_decay = {log2_decay, heads};
  recurrence.beta = {beta, heads};
  RunRecurrence(batch, recurrence);
  output_.Forward({mixed_out, values()}, extra, tokens, mixed_out, out);
}

void ReadGatedDeltaNet(ConfigFields& fields, DecoderSpec& spec) {
  ReadFlaSizes(fields, spec);
  GatedDeltaNetShape shape;
  shape.qkv.hidden = spec.hidden;
  shape.eps = spec.norm.eps;
  ReadValueHeads(fields, 2.0, shape.qkv);
  ReadConvolution(fields, true, shape.qkv);
  shape.qkv.silu = true;
  const std::string gate = fields.OneOf(
      "output_gate_activation", {"swish", "silu", "sigmoid"}, "swish");
  shape.gate = gate == "sigmoid" ? GateKind::kSigmoid : GateKind::kSilu;
  if (!fields.Bool("use_gate", true)) shape.gate = GateKind::kNone;
  shape.negative_eigenvalues = fields.Bool("allow_neg_eigval", false);
  fields.OneOf(
      "attn_mode", {"chunk", "fused_chunk", "fused_recurrent"}, "chunk");
  ReadFlaLayers(fields, spec, [shape](int32_t) {
    return std::make_unique<GatedDeltaNet>(shape);
  });
}

}  // namespace weir::engine
