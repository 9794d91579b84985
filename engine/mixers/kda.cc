// SPDX-License-Identifier: Apache-2.0
#include "engine/mixers/kda.h"

#include <memory>
#include <utility>

#include "engine/kernels/channel_gates.h"
#include "engine/mixers/fla_decoder.h"
#include "engine/mixers/parallel.h"

namespace weir::engine {

Kda::Kda(const KdaShape& shape)
    : shape_(shape),
      qkv_(shape.qkv, 2 * rank() + shape.qkv.heads),
      decay_up_(rank(), decays(), false),
      gate_up_(rank(), values(), true),
      output_(shape.qkv, shape.eps, GateKind::kSigmoid),
      a_log_(shape.qkv.heads),
      dt_bias_(decays()) {}

std::vector<WeightSlot> Kda::Weights() {
  const int64_t heads = shape_.qkv.heads;
  std::vector<WeightSlot> slots = qkv_.Weights();
  slots.push_back(qkv_.Extra("f_proj.0.weight", 0, rank()));
  slots.push_back(qkv_.Extra("g_proj.0.weight", rank(), rank()));
  slots.push_back(qkv_.Extra("b_proj.weight", 2 * rank(), heads));
  slots.push_back(decay_up_.Rows("f_proj.1.weight", 0, decays()));
  slots.push_back(gate_up_.Rows("g_proj.1.weight", 0, values()));
  slots.push_back(gate_up_.Bias("g_proj.1.bias", 0, values()));
  slots.push_back({.name = "A_log", .shape = {heads}, .buffer = &a_log_});
  slots.push_back(
      {.name = "dt_bias", .shape = {decays()}, .buffer = &dt_bias_});
  for (WeightSlot& slot : output_.Weights()) slots.push_back(std::move(slot));
  return slots;
}

std::vector<StateTensor> Kda::State() const { return qkv_.RecurrentState(); }

int64_t Kda::workspace_floats() const {
  return qkv_.workspace_floats() + 3 * decays() + 2 * values() +
         shape_.qkv.heads;
}

void Kda::Forward(const MixerInput& input, float* workspace, float* out) const {
  const Batch& batch = *input.batch;
  const int64_t tokens = batch.tokens;
  const int32_t heads = shape_.qkv.heads;
  float* f = workspace + tokens * qkv_.workspace_floats();
  float* log2_decay = f + tokens * decays();
  float* a = log2_decay + tokens * decays();
  float* gate = a + tokens * decays();
  float* mixed_out = gate + tokens * values();
  float* beta = mixed_out + tokens * values();

  const QkvProjection::Result qkv =
      qkv_.Forward(input, input.state.first + 1, workspace);
  qkv_.Normalize(qkv, tokens);
  const TokenRows extra = qkv.extra;
  decay_up_.Forward(extra, tokens, f);
  gate_up_.Forward({extra.data + rank(), extra.stride}, tokens, gate);
  const KdaGateArgs gates = {
      .heads = heads,
      .key_heads = shape_.qkv.key_heads,
      .key_dim = shape_.qkv.key_dim,
      .f = {f, decays()},
      .b = {extra.data + 2 * rank(), extra.stride},
      .k = {qkv.k, qkv.stride},
      .a_log = a_log_.data(),
      .dt_bias = dt_bias_.data(),
      .bound = shape_.bound,
      .beta_scale = shape_.negative_eigenvalues ? 2.0F : 1.0F,
      .log2_decay = log2_decay,
      .a = a,
      .beta = beta};
  ParallelFor(tokens, 16 * decays(), [&](int64_t begin, int64_t end) {
    KdaGates(gates, begin, end);
  });
  RecurrenceArgs recurrence = qkv_.Recurrence(input, qkv, mixed_out);
  recurrence.decay = DecayKind::kKey;
  recurrence.log2_decay = {log2_decay, decays()};
  recurrence.beta = {beta, heads};
  recurrence.a = {a, decays()};
  RunRecurrence(batch, recurrence);
  const TokenRows mixed = {mixed_out, values()};
  output_.Forward(mixed, {gate, values()}, tokens, mixed_out, out);
}

void ReadKda(ConfigFields& fields, DecoderSpec& spec) {
  ReadFlaSizes(fields, spec);
  KdaShape shape;
  shape.eps = spec.norm.eps;
  QkvShape& qkv = shape.qkv;
  qkv.hidden = spec.hidden;
  ReadValueHeads(fields, 1.0, qkv);
  ReadConvolution(fields, true, qkv);
  qkv.silu = true;
  shape.negative_eigenvalues = fields.Bool("allow_neg_eigval", false);
  // The safe gate is the bounded one; its bound says which it is.
  const bool safe = fields.Bool("safe_gate", false);
  if (!fields.Raw("lower_bound").is_null()) {
    shape.bound = static_cast<float>(fields.Number("lower_bound", -1e3, -1e-3));
  } else if (safe) {
    fields.Fail("safe_gate", "needs a lower_bound");
  }
  fields.OneOf(
      "attn_mode", {"chunk", "fused_chunk", "fused_recurrent"}, "chunk");
  ReadFlaLayers(
      fields, spec, [shape](int32_t) { return std::make_unique<Kda>(shape); });
}

}  // namespace weir::engine
