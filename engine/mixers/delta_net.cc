// SPDX-License-Identifier: Apache-2.0
#include "engine/mixers/delta_net.h"

#include <algorithm>
#include <memory>
#include <string>
#include <utility>

#include "engine/kernels/activation.h"
#include "engine/mixers/fla_decoder.h"

namespace weir::engine {

DeltaNet::DeltaNet(const DeltaNetShape& shape)
    : shape_(shape),
      b_column_(shape.gate ? int64_t{shape.qkv.heads} * shape.qkv.value_dim
                           : 0),
      qkv_(shape.qkv, b_column_ + (shape.beta ? shape.qkv.heads : 0)),
      output_(
          shape.qkv, shape.eps, shape.gate ? GateKind::kSilu : GateKind::kNone),
      no_decay_(shape.qkv.heads, 0.0F) {}

std::vector<WeightSlot> DeltaNet::Weights() {
  std::vector<WeightSlot> slots = qkv_.Weights();
  if (shape_.beta) {
    slots.push_back(qkv_.Extra("b_proj.weight", b_column_, shape_.qkv.heads));
  }
  if (shape_.gate) slots.push_back(qkv_.Extra("g_proj.weight", 0, values()));
  for (WeightSlot& slot : output_.Weights()) slots.push_back(std::move(slot));
  return slots;
}

std::vector<StateTensor> DeltaNet::State() const {
  return qkv_.RecurrentState();
}

int64_t DeltaNet::workspace_floats() const {
  return qkv_.workspace_floats() + values() + shape_.qkv.heads;
}

void DeltaNet::Forward(const MixerInput& input,
                       float* workspace,
                       float* out) const {
  const Batch& batch = *input.batch;
  const int64_t tokens = batch.tokens;
  const int32_t heads = shape_.qkv.heads;
  float* mixed_out = workspace + tokens * qkv_.workspace_floats();
  float* beta = mixed_out + tokens * values();

  const QkvProjection::Result qkv =
      qkv_.Forward(input, input.state.first + 1, workspace);
  qkv_.Normalize(qkv, tokens, shape_.norm);
  const TokenRows extra = qkv.extra;
  const float scale = shape_.negative_eigenvalues ? 2.0F : 1.0F;
  for (int64_t t = 0; t < tokens; ++t) {
    float* to = beta + t * heads;
    if (!shape_.beta) {
      std::fill_n(to, heads, scale);
      continue;
    }
    const float* from = extra.data + t * extra.stride + b_column_;
    std::copy_n(from, heads, to);
    Activate(Activation::kSigmoid, to, heads);
    for (int32_t h = 0; h < heads; ++h) to[h] *= scale;
  }
  RecurrenceArgs recurrence = qkv_.Recurrence(input, qkv, mixed_out);
  recurrence.log2_decay = {no_decay_.data(), 0};
  recurrence.beta = {beta, heads};
  RunRecurrence(batch, recurrence);
  output_.Forward({mixed_out, values()}, extra, tokens, mixed_out, out);
}

void ReadDeltaNet(ConfigFields& fields, DecoderSpec& spec) {
  ReadFlaSizes(fields, spec);
  DeltaNetShape shape;
  shape.eps = spec.norm.eps;
  QkvShape& qkv = shape.qkv;
  qkv.hidden = spec.hidden;
  qkv.heads = static_cast<int32_t>(fields.Int("num_heads", 1, kHeadsMax));
  qkv.key_heads = qkv.heads;
  qkv.key_dim = HeadDim(fields, "expand_k", 1.0, spec.hidden, qkv.heads);
  qkv.value_dim = HeadDim(fields, "expand_v", 1.0, spec.hidden, qkv.heads);
  ReadConvolution(fields, true, qkv);
  qkv.silu = true;
  shape.beta = fields.Bool("use_beta", true);
  shape.gate = fields.Bool("use_gate", false);
  shape.negative_eigenvalues = fields.Bool("allow_neg_eigval", false);
  if (fields.OneOf("qk_norm", {"l2", "sum"}, "l2") == "sum") {
    shape.norm = HeadNorm::kL1;
  }
  const std::string activation = fields.OneOf(
      "qk_activation", {"silu", "relu", "elu", "identity"}, "silu");
  qkv.qk_silu = activation == "silu";
  if (activation == "relu") qkv.qk_map = Activation::kRelu;
  if (activation == "elu") qkv.qk_map = Activation::kEluPlusOne;
  if (!fields.Bool("use_output_norm", true)) {
    fields.Fail("use_output_norm", "a mixer without its norm is not served");
  }
  fields.OneOf(
      "attn_mode", {"chunk", "fused_chunk", "fused_recurrent"}, "chunk");
  ReadFlaLayers(fields, spec, [shape](int32_t) {
    return std::make_unique<DeltaNet>(shape);
  });
}

}  // namespace weir::engine
