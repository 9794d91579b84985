// SPDX-License-Identifier: Apache-2.0
#include "engine/mixers/gdn2.h"

#include <memory>
#include <utility>

#include "engine/kernels/activation.h"
#include "engine/kernels/channel_gates.h"
#include "engine/mixers/fla_decoder.h"
#include "engine/mixers/parallel.h"

namespace weir::engine {
namespace {

int64_t Keys(const QkvShape& qkv) {
  return int64_t{qkv.key_heads} * qkv.key_dim;
}

int64_t Values(const QkvShape& qkv) {
  return int64_t{qkv.heads} * qkv.value_dim;
}

}  // namespace

Gdn2::Gdn2(const Gdn2Shape& shape)
    : shape_(shape),
      b_column_(2 * int64_t{shape.qkv.value_dim}),
      w_column_(b_column_ + Keys(shape.qkv)),
      qkv_(shape.qkv, w_column_ + Values(shape.qkv)),
      decay_up_(rank(), keys(), false),
      gate_up_(rank(), values(), true),
      output_(shape.qkv, shape.eps, GateKind::kSigmoid),
      a_log_(shape.qkv.key_heads),
      dt_bias_(keys()) {}

std::vector<WeightSlot> Gdn2::Weights() {
  std::vector<WeightSlot> slots = qkv_.Weights();
  slots.push_back(qkv_.Extra("f_proj.0.weight", 0, rank()));
  slots.push_back(qkv_.Extra("g_proj.0.weight", rank(), rank()));
  slots.push_back(qkv_.Extra("b_proj.weight", b_column_, keys()));
  slots.push_back(qkv_.Extra("w_proj.weight", w_column_, values()));
  slots.push_back(decay_up_.Rows("f_proj.1.weight", 0, keys()));
  slots.push_back(gate_up_.Rows("g_proj.1.weight", 0, values()));
  slots.push_back(gate_up_.Bias("g_proj.1.bias", 0, values()));
  slots.push_back(
      {.name = "A_log", .shape = {shape_.qkv.key_heads}, .buffer = &a_log_});
  slots.push_back({.name = "dt_bias", .shape = {keys()}, .buffer = &dt_bias_});
  for (WeightSlot& slot : output_.Weights()) slots.push_back(std::move(slot));
  return slots;
}

std::vector<StateTensor> Gdn2::State() const { return qkv_.RecurrentState(); }

int64_t Gdn2::workspace_floats() const {
  return qkv_.workspace_floats() + keys() + 2 * decays() + 3 * values();
}

void Gdn2::Forward(const MixerInput& input,
                   float* workspace,
                   float* out) const {
  const Batch& batch = *input.batch;
  const int64_t tokens = batch.tokens;
  const int32_t heads = shape_.qkv.heads;
  float* f = workspace + tokens * qkv_.workspace_floats();
  float* log2_decay = f + tokens * keys();
  float* a = log2_decay + tokens * decays();
  float* gate = a + tokens * decays();
  float* written = gate + tokens * values();
  float* mixed_out = written + tokens * values();

  const QkvProjection::Result qkv =
      qkv_.Forward(input, input.state.first + 1, workspace);
  qkv_.Normalize(qkv, tokens);
  const TokenRows extra = qkv.extra;
  decay_up_.Forward(extra, tokens, f);
  gate_up_.Forward({extra.data + rank(), extra.stride}, tokens, gate);
  const Gdn2GateArgs gates = {
      .heads = heads,
      .key_heads = shape_.qkv.key_heads,
      .key_dim = shape_.qkv.key_dim,
      .f = {f, keys()},
      .b = {extra.data + b_column_, extra.stride},
      .k = {qkv.k, qkv.stride},
      .a_log = a_log_.data(),
      .dt_bias = dt_bias_.data(),
      .erase_scale = shape_.negative_eigenvalues ? 2.0F : 1.0F,
      .log2_decay = log2_decay,
      .a = a};
  const TokenRows write_gate = {extra.data + w_column_, extra.stride};
  const auto width = static_cast<int32_t>(values());
  const int64_t cost = 16 * keys() + 8 * values();
  ParallelFor(tokens, cost, [&](int64_t begin, int64_t end) {
    Gdn2Gates(gates, begin, end);
    SigmoidMultiply(
        write_gate, {qkv.v, qkv.stride}, width, written, begin, end);
  });
  // The erase gate is in `a`, the write gate in v: there is no beta.
  RecurrenceArgs recurrence = qkv_.Recurrence(input, qkv, mixed_out);
  recurrence.decay = DecayKind::kKey;
  recurrence.v = {written, values()};
  recurrence.log2_decay = {log2_decay, decays()};
  recurrence.a = {a, decays()};
  RunRecurrence(batch, recurrence);
  const TokenRows mixed = {mixed_out, values()};
  output_.Forward(mixed, {gate, values()}, tokens, mixed_out, out);
}

void ReadGdn2(ConfigFields& fields, DecoderSpec& spec) {
  ReadFlaSizes(fields, spec);
  Gdn2Shape shape;
  shape.eps = spec.norm.eps;
  QkvShape& qkv = shape.qkv;
  qkv.hidden = spec.hidden;
  ReadValueHeads(fields, 1.0, qkv);
  ReadConvolution(fields, true, qkv);
  qkv.silu = true;
  shape.negative_eigenvalues = fields.Bool("allow_neg_eigval", false);
  fields.OneOf("attn_mode", {"chunk", "fused_recurrent"}, "chunk");
  ReadFlaLayers(
      fields, spec, [shape](int32_t) { return std::make_unique<Gdn2>(shape); });
}

}  // namespace weir::engine
