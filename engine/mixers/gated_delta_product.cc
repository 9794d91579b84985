// SPDX-License-Identifier: Apache-2.0
#include "engine/mixers/gated_delta_product.h"

#include <algorithm>
#include <memory>
#include <utility>

#include "engine/kernels/activation.h"
#include "engine/kernels/pointwise.h"
#include "engine/mixers/fla_decoder.h"
#include "engine/mixers/parallel.h"

namespace weir::engine {
namespace {

int64_t GateColumns(const GatedDeltaProductShape& shape) {
  return shape.gate ? int64_t{shape.qkv.heads} * shape.qkv.value_dim : 0;
}

int64_t DecayColumns(const GatedDeltaProductShape& shape) {
  return shape.decay ? shape.qkv.heads : 0;
}

}  // namespace

GatedDeltaProduct::GatedDeltaProduct(const GatedDeltaProductShape& shape)
    : shape_(shape),
      a_column_(GateColumns(shape)),
      b_column_(a_column_ + DecayColumns(shape)),
      qkv_(shape.qkv, b_column_ + int64_t{shape.qkv.writes} * shape.qkv.heads),
      output_(
          shape.qkv, shape.eps, shape.gate ? GateKind::kSilu : GateKind::kNone),
      a_log_(DecayColumns(shape)),
      dt_bias_(DecayColumns(shape)) {}

std::vector<WeightSlot> GatedDeltaProduct::Weights() {
  const int64_t heads = shape_.qkv.heads;
  std::vector<WeightSlot> slots = qkv_.Weights();
  slots.push_back(qkv_.Extra("b_proj.weight", b_column_, writes() * heads));
  if (shape_.decay) {
    slots.push_back(qkv_.Extra("a_proj.weight", a_column_, heads));
    slots.push_back({.name = "A_log", .shape = {heads}, .buffer = &a_log_});
    slots.push_back({.name = "dt_bias", .shape = {heads}, .buffer = &dt_bias_});
  }
  if (shape_.gate) slots.push_back(qkv_.Extra("g_proj.weight", 0, values()));
  for (WeightSlot& slot : output_.Weights()) slots.push_back(std::move(slot));
  return slots;
}

std::vector<StateTensor> GatedDeltaProduct::State() const {
  return qkv_.RecurrentState();
}

int64_t GatedDeltaProduct::write_floats() const {
  return 2 * (qkv_.keys() + values() + shape_.qkv.heads);
}

int64_t GatedDeltaProduct::workspace_floats() const {
  return qkv_.workspace_floats() + writes() * write_floats() +
         2 * int64_t{shape_.qkv.heads};
}

GatedDeltaProduct::Writes GatedDeltaProduct::Divide(float* workspace,
                                                    int64_t tokens) const {
  const int64_t rows = tokens * writes();
  Writes to;
  to.q = workspace;
  to.k = to.q + rows * qkv_.keys();
  to.v = to.k + rows * qkv_.keys();
  to.out = to.v + rows * values();
  to.log2_decay = to.out + rows * values();
  to.beta = to.log2_decay + rows * shape_.qkv.heads;
  to.gates = to.beta + rows * shape_.qkv.heads;
  return to;
}

void GatedDeltaProduct::Gates(TokenRows extra,
                              int64_t tokens,
                              const Writes& writes) const {
  const int32_t heads = shape_.qkv.heads;
  const int64_t width = int64_t{this->writes()} * heads;
  const float scale = shape_.negative_eigenvalues ? 2.0F : 1.0F;
  // Its beta is the first write's, which is among those made below.
  const DeltaGateArgs decays = {.heads = heads,
                                .a = {extra.data + a_column_, extra.stride},
                                .b = {extra.data + b_column_, extra.stride},
                                .a_log = a_log_.data(),
                                .dt_bias = dt_bias_.data(),
                                .log2_decay = writes.gates,
                                .beta = writes.gates + tokens * heads};
  // A gate takes two transcendental functions, worth some dozen floats.
  ParallelFor(tokens, 32 * width, [&](int64_t begin, int64_t end) {
    if (shape_.decay) DeltaGates(decays, begin, end);
    for (int64_t t = begin; t < end; ++t) {
      float* beta = writes.beta + t * width;
      std::copy_n(extra.data + t * extra.stride + b_column_, width, beta);
      Activate(Activation::kSigmoid, beta, width);
      for (int64_t i = 0; i < width; ++i) beta[i] *= scale;
      float* log2_decay = writes.log2_decay + t * width;
      std::fill_n(log2_decay, width, 0.0F);
      if (shape_.decay) {
        std::copy_n(writes.gates + t * heads, heads, log2_decay);
      }
    }
  });
}

void GatedDeltaProduct::Spread(const QkvProjection::Result& qkv,
                               int64_t tokens,
                               const Writes& writes) const {
  const int64_t keys = this->writes() * qkv_.keys();
  const int64_t values = this->writes() * this->values();
  ParallelFor(tokens, 2 * keys + values, [&](int64_t begin, int64_t end) {
    for (int64_t t = begin; t < end; ++t) {
      const int64_t from = t * qkv.stride;
      float* q = writes.q + t * keys;
      std::fill_n(q, keys - qkv_.keys(), 0.0F);
      std::copy_n(qkv.q + from, qkv_.keys(), q + keys - qkv_.keys());
      std::copy_n(qkv.k + from, keys, writes.k + t * keys);
      std::copy_n(qkv.v + from, values, writes.v + t * values);
    }
  });
}

void GatedDeltaProduct::Forward(const MixerInput& input,
                                float* workspace,
                                float* out) const {
  const Batch& batch = *input.batch;
  const int64_t tokens = batch.tokens;
  const int32_t heads = shape_.qkv.heads;
  const Writes to =
      Divide(workspace + tokens * qkv_.workspace_floats(), tokens);
  const QkvProjection::Result qkv =
      qkv_.Forward(input, input.state.first + 1, workspace);
  qkv_.Normalize(qkv, tokens);
  Gates(qkv.extra, tokens, to);
  Spread(qkv, tokens, to);

  // To the recurrence a write is a token.
  std::vector<int32_t> row_starts(batch.row_starts,
                                  batch.row_starts + batch.rows + 1);
  for (int32_t& start : row_starts) start *= writes();
  Batch stretched = batch;
  stretched.tokens = tokens * writes();
  stretched.row_starts = row_starts.data();
  RecurrenceArgs recurrence = qkv_.Recurrence(input, qkv, to.out);
  recurrence.q = {to.q, qkv_.keys()};
  recurrence.k = {to.k, qkv_.keys()};
  recurrence.v = {to.v, values()};
  recurrence.log2_decay = {to.log2_decay, heads};
  recurrence.beta = {to.beta, heads};
  RunRecurrence(stretched, recurrence);
  // The values are read no more; their place takes the norm's output.
  const TokenRows last = {to.out + (writes() - 1) * values(),
                          writes() * values()};
  output_.Forward(last, qkv.extra, tokens, to.v, out);
}

void ReadGatedDeltaProduct(ConfigFields& fields, DecoderSpec& spec) {
  ReadFlaSizes(fields, spec);
  GatedDeltaProductShape shape;
  shape.eps = spec.norm.eps;
  QkvShape& qkv = shape.qkv;
  qkv.hidden = spec.hidden;
  ReadValueHeads(fields, 2.0, qkv);
  qkv.writes =
      static_cast<int32_t>(fields.Int("num_householder", 1, kWritesMax, 1));
  ReadConvolution(fields, true, qkv);
  qkv.silu = true;
  shape.decay = fields.Bool("use_forget_gate", false);
  shape.gate = fields.Bool("use_output_gate", true);
  shape.negative_eigenvalues = fields.Bool("allow_neg_eigval", false);
  fields.OneOf("attn_mode", {"chunk", "fused_recurrent"}, "chunk");
  ReadFlaLayers(fields, spec, [shape](int32_t) {
    return std::make_unique<GatedDeltaProduct>(shape);
  });
}

}  // namespace weir::engine
