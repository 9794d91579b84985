// SPDX-License-Identifier: Apache-2.0
#include "engine/mixers/kda.h"

#include <algorithm>
#include <cstddef>
#include <memory>
#include <utility>

#include "absl/strings/str_cat.h"
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

}  // namespace

Kda::Kda(const KdaShape& shape)
    : shape_(shape),
      qkv_(shape.qkv, 2 * rank() + shape.qkv.heads),
      decay_up_(rank(), decays(), false),
      gate_up_(rank(), values(), true),
      out_projection_(values(), shape.qkv.hidden, false),
      a_log_(shape.qkv.heads),
      dt_bias_(decays()),
      norm_(shape.qkv.value_dim) {}

std::vector<WeightSlot> Kda::Weights() {
  const int64_t heads = shape_.qkv.heads;
  std::vector<WeightSlot> slots = qkv_.Weights();
  slots.push_back(qkv_.Extra("f_proj.0.weight", 0, rank()));
  slots.push_back(qkv_.Extra("g_proj.0.weight", rank(), rank()));
  slots.push_back(qkv_.Extra("b_proj.weight", 2 * rank(), heads));
  slots.push_back(decay_up_.Rows("f_proj.1.weight", 0, decays()));
  slots.push_back(gate_up_.Rows("g_proj.1.weight", 0, values()));
  slots.push_back(gate_up_.Bias("g_proj.1.bias", 0, values()));
  slots.push_back(out_projection_.Rows("o_proj.weight", 0, shape_.qkv.hidden));
  slots.push_back({.name = "A_log", .shape = {heads}, .buffer = &a_log_});
  slots.push_back(
      {.name = "dt_bias", .shape = {decays()}, .buffer = &dt_bias_});
  slots.push_back({.name = "o_norm.weight",
                   .shape = {shape_.qkv.value_dim},
                   .buffer = &norm_});
  return slots;
}

std::vector<StateTensor> Kda::State() const {
  const QkvShape& qkv = shape_.qkv;
  std::vector<StateTensor> tensors = {
      {.name = "recurrent", .shape = {qkv.heads, qkv.value_dim, qkv.key_dim}}};
  for (StateTensor& tensor : qkv_.State()) tensors.push_back(std::move(tensor));
  return tensors;
}

int64_t Kda::workspace_floats() const {
  return qkv_.workspace_floats() + rank() + 3 * decays() + 2 * values() +
         shape_.qkv.heads;
}

void Kda::Forward(const MixerInput& input, float* workspace, float* out) const {
  const Batch& batch = *input.batch;
  const int64_t tokens = batch.tokens;
  const int32_t heads = shape_.qkv.heads;
  float* middle = workspace + tokens * qkv_.workspace_floats();
  float* f = middle + tokens * rank();
  float* log2_decay = f + tokens * decays();
  float* a = log2_decay + tokens * decays();
  float* gate = a + tokens * decays();
  float* mixed_out = gate + tokens * values();
  float* beta = mixed_out + tokens * values();

  const QkvProjection::Result qkv =
      qkv_.Forward(input, input.state.first + 1, workspace);
  qkv_.Normalize(qkv, tokens);
  const TokenRows extra = qkv.extra;
  Gather(extra, tokens, rank(), middle);
  decay_up_.Forward(middle, tokens, f);
  Gather({extra.data + rank(), extra.stride}, tokens, rank(), middle);
  gate_up_.Forward(middle, tokens, gate);
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
  RunRecurrence(batch,
                {.decay = DecayKind::kKey,
                 .heads = heads,
                 .key_heads = shape_.qkv.key_heads,
                 .key_dim = shape_.qkv.key_dim,
                 .value_dim = shape_.qkv.value_dim,
                 .q = {qkv.q, qkv.stride},
                 .k = {qkv.k, qkv.stride},
                 .v = {qkv.v, qkv.stride},
                 .log2_decay = {log2_decay, decays()},
                 .beta = {beta, heads},
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

void ReadKda(ConfigFields& fields, DecoderSpec& spec) {
  ReadFlaSizes(fields, spec);
  KdaShape shape;
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
