// SPDX-License-Identifier: Apache-2.0
#include "engine/mixers/gdn2.h"

#include <algorithm>
#include <cstddef>
#include <memory>
#include <utility>

#include "absl/strings/str_cat.h"
#include "engine/kernels/activation.h"
#include "engine/kernels/channel_gates.h"
#include "engine/kernels/pointwise.h"
#include "engine/mixers/fla_decoder.h"
#include "engine/mixers/parallel.h"

namespace weir::engine {
namespace {

// Columns of each token to a place of their own, as a product wants its input.
void Gather(TokenRows from, int64_t tokens, int64_t width, float* to) {
  for (int64_t t = 0; t < tokens; ++t) {
    std::copy_n(from.data + t * from.stride, width, to + t * width);
  }
}

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
      out_projection_(values(), shape.qkv.hidden, false),
      a_log_(shape.qkv.key_heads),
      dt_bias_(keys()),
      norm_(shape.qkv.value_dim) {}

std::vector<WeightSlot> Gdn2::Weights() {
  std::vector<WeightSlot> slots = qkv_.Weights();
  slots.push_back(qkv_.Extra("f_proj.0.weight", 0, rank()));
  slots.push_back(qkv_.Extra("g_proj.0.weight", rank(), rank()));
  slots.push_back(qkv_.Extra("b_proj.weight", b_column_, keys()));
  slots.push_back(qkv_.Extra("w_proj.weight", w_column_, values()));
  slots.push_back(decay_up_.Rows("f_proj.1.weight", 0, keys()));
  slots.push_back(gate_up_.Rows("g_proj.1.weight", 0, values()));
  slots.push_back(gate_up_.Bias("g_proj.1.bias", 0, values()));
  slots.push_back(out_projection_.Rows("o_proj.weight", 0, shape_.qkv.hidden));
  slots.push_back(
      {.name = "A_log", .shape = {shape_.qkv.key_heads}, .buffer = &a_log_});
  slots.push_back({.name = "dt_bias", .shape = {keys()}, .buffer = &dt_bias_});
  slots.push_back({.name = "o_norm.weight",
                   .shape = {shape_.qkv.value_dim},
                   .buffer = &norm_});
  return slots;
}

std::vector<StateTensor> Gdn2::State() const {
  const QkvShape& qkv = shape_.qkv;
  std::vector<StateTensor> tensors = {
      {.name = "recurrent", .shape = {qkv.heads, qkv.value_dim, qkv.key_dim}}};
  for (StateTensor& tensor : qkv_.State()) tensors.push_back(std::move(tensor));
  return tensors;
}

int64_t Gdn2::workspace_floats() const {
  return qkv_.workspace_floats() + rank() + keys() + 2 * decays() +
         3 * values();
}

void Gdn2::LowRank(TokenRows extra,
                   int64_t tokens,
                   float* middle,
                   float* f,
                   float* gate) const {
  Gather(extra, tokens, rank(), middle);
  decay_up_.Forward(middle, tokens, f);
  Gather({extra.data + rank(), extra.stride}, tokens, rank(), middle);
  gate_up_.Forward(middle, tokens, gate);
}

void Gdn2::Forward(const MixerInput& input,
                   float* workspace,
                   float* out) const {
  const Batch& batch = *input.batch;
  const int64_t tokens = batch.tokens;
  const int32_t heads = shape_.qkv.heads;
  float* middle = workspace + tokens * qkv_.workspace_floats();
  float* f = middle + tokens * rank();
  float* log2_decay = f + tokens * keys();
  float* a = log2_decay + tokens * decays();
  float* gate = a + tokens * decays();
  float* written = gate + tokens * values();
  float* mixed_out = written + tokens * values();

  const QkvProjection::Result qkv =
      qkv_.Forward(input, input.state.first + 1, workspace);
  qkv_.Normalize(qkv, tokens);
  const TokenRows extra = qkv.extra;
  LowRank(extra, tokens, middle, f, gate);
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
  RunRecurrence(batch,
                {.decay = DecayKind::kKey,
                 .heads = heads,
                 .key_heads = shape_.qkv.key_heads,
                 .key_dim = shape_.qkv.key_dim,
                 .value_dim = shape_.qkv.value_dim,
                 .q = {qkv.q, qkv.stride},
                 .k = {qkv.k, qkv.stride},
                 .v = {written, values()},
                 .log2_decay = {log2_decay, decays()},
                 .a = {a, decays()},
                 .out = mixed_out,
                 .out_stride = values(),
                 .state = input.state.pool->base(input.state.first),
                 .state_stride = input.state.pool->stride(input.state.first)});
  const GatedNormArgs norm = {.groups = heads,
                              .width = shape_.qkv.value_dim,
                              .x = {mixed_out, values()},
                              .z = {gate, values()},
                              .weight = norm_.data(),
                              .shared_weight = true,
                              .eps = shape_.eps,
                              .gate = GateKind::kSigmoid,
                              .order = GateOrder::kAfterNorm,
                              .out = mixed_out};
  ParallelFor(tokens, 2 * values(), [&](int64_t begin, int64_t end) {
    GatedNorm(norm, begin, end);
  });
  out_projection_.Forward(mixed_out, tokens, out);
}

void ReadGdn2(ConfigFields& fields, DecoderSpec& spec) {
  ReadFlaSizes(fields, spec);
  Gdn2Shape shape;
  shape.eps = spec.norm.eps;
  QkvShape& qkv = shape.qkv;
  qkv.hidden = spec.hidden;
  qkv.key_heads = static_cast<int32_t>(fields.Int("num_heads", 1, kHeadsMax));
  qkv.heads = static_cast<int32_t>(
      fields.Int("num_v_heads", 1, kHeadsMax, qkv.key_heads));
  if (qkv.heads % qkv.key_heads != 0) {
    fields.Fail(
        "num_v_heads",
        absl::StrCat(
            qkv.heads, " is no multiple of num_heads, ", qkv.key_heads));
  }
  qkv.key_dim = static_cast<int32_t>(fields.Int("head_dim", 1, kHeadDimMax));
  qkv.value_dim = ScaledDim(fields, "expand_v", 1.0, qkv.key_dim);
  ReadConvolution(fields, true, qkv);
  qkv.silu = true;
  shape.negative_eigenvalues = fields.Bool("allow_neg_eigval", false);
  fields.OneOf("attn_mode", {"chunk", "fused_recurrent"}, "chunk");
  ReadFlaLayers(
      fields, spec, [shape](int32_t) { return std::make_unique<Gdn2>(shape); });
}

}  // namespace weir::engine
