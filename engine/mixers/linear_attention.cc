// SPDX-License-Identifier: Apache-2.0
#include "engine/mixers/linear_attention.h"

#include <cstddef>
#include <memory>
#include <string>

#include "engine/kernels/pointwise.h"
#include "engine/mixers/fla_decoder.h"
#include "engine/mixers/parallel.h"

namespace weir::engine {
namespace {

// What a sum of keys is kept above; no configuration names it.
constexpr float kSumEps = 1e-10F;

}  // namespace

LinearAttention::LinearAttention(const LinearAttentionShape& shape)
    : shape_(shape),
      qkv_(shape.qkv, 0),
      out_projection_(values(), shape.qkv.hidden, false),
      norm_(shape.qkv.value_dim),
      no_decay_(static_cast<size_t>(shape.qkv.heads), 0.0F),
      ones_(static_cast<size_t>(shape.qkv.heads), 1.0F) {}

std::vector<WeightSlot> LinearAttention::Weights() {
  std::vector<WeightSlot> slots = qkv_.Weights();
  slots.push_back(out_projection_.Rows("o_proj.weight", 0, shape_.qkv.hidden));
  slots.push_back({.name = "norm.weight",
                   .shape = {shape_.qkv.value_dim},
                   .buffer = &norm_});
  return slots;
}

std::vector<StateTensor> LinearAttention::State() const {
  const QkvShape& qkv = shape_.qkv;
  std::vector<StateTensor> tensors = {
      {.name = "recurrent", .shape = {qkv.heads, qkv.value_dim, qkv.key_dim}}};
  if (shape_.normalized) {
    tensors.push_back({.name = "sum", .shape = {qkv.heads, qkv.key_dim}});
  }
  return tensors;
}

int64_t LinearAttention::workspace_floats() const {
  return qkv_.workspace_floats() + values() + shape_.qkv.heads;
}

// The sum of the keys is a state of one value channel into which 1 is written.
void LinearAttention::Normalize(const MixerInput& input,
                                const QkvProjection::Result& qkv,
                                float* sums,
                                float* mixed_out) const {
  const int32_t heads = shape_.qkv.heads;
  const size_t tensor = input.state.first + 1;
  RunRecurrence(*input.batch,
                {.heads = heads,
                 .key_heads = shape_.qkv.key_heads,
                 .key_dim = shape_.qkv.key_dim,
                 .value_dim = 1,
                 .q = {qkv.q, qkv.stride},
                 .k = {qkv.k, qkv.stride},
                 .v = {ones_.data(), 0},
                 .log2_decay = {no_decay_.data(), 0},
                 .out = sums,
                 .out_stride = heads,
                 .state = input.state.pool->base(tensor),
                 .state_stride = input.state.pool->stride(tensor)});
  const int64_t dim = shape_.qkv.value_dim;
  ParallelFor(input.batch->tokens, values(), [&](int64_t begin, int64_t end) {
    for (int64_t head = begin * heads; head < end * heads; ++head) {
      const float factor = 1.0F / (sums[head] + kSumEps);
      for (int64_t i = 0; i < dim; ++i) mixed_out[head * dim + i] *= factor;
    }
  });
}

void LinearAttention::Forward(const MixerInput& input,
                              float* workspace,
                              float* out) const {
  const Batch& batch = *input.batch;
  const int64_t tokens = batch.tokens;
  const int32_t heads = shape_.qkv.heads;
  float* mixed_out = workspace + tokens * qkv_.workspace_floats();
  float* sums = mixed_out + tokens * values();

  const QkvProjection::Result qkv =
      qkv_.Forward(input, input.state.first, workspace);
  ParallelFor(tokens, 8 * qkv_.keys(), [&](int64_t begin, int64_t end) {
    for (int64_t t = begin; t < end; ++t) {
      Activate(shape_.feature, qkv.q + t * qkv.stride, qkv_.keys());
      Activate(shape_.feature, qkv.k + t * qkv.stride, qkv_.keys());
    }
  });
  qkv_.ScaleQueries(qkv, tokens);
  RunRecurrence(batch,
                {.heads = heads,
                 .key_heads = shape_.qkv.key_heads,
                 .key_dim = shape_.qkv.key_dim,
                 .value_dim = shape_.qkv.value_dim,
                 .q = {qkv.q, qkv.stride},
                 .k = {qkv.k, qkv.stride},
                 .v = {qkv.v, qkv.stride},
                 .log2_decay = {no_decay_.data(), 0},
                 .out = mixed_out,
                 .out_stride = values(),
                 .state = input.state.pool->base(input.state.first),
                 .state_stride = input.state.pool->stride(input.state.first)});
  if (shape_.normalized) Normalize(input, qkv, sums, mixed_out);
  const GatedNormArgs norm = {.groups = heads,
                              .width = shape_.qkv.value_dim,
                              .x = {mixed_out, values()},
                              .z = {},
                              .weight = norm_.data(),
                              .shared_weight = true,
                              .eps = shape_.eps,
                              .gate = GateKind::kNone,
                              .order = GateOrder::kAfterNorm,
                              .out = mixed_out};
  ParallelFor(tokens, 2 * values(), [&](int64_t begin, int64_t end) {
    GatedNorm(norm, begin, end);
  });
  out_projection_.Forward(mixed_out, tokens, out);
}

void ReadLinearAttention(ConfigFields& fields, DecoderSpec& spec) {
  ReadFlaSizes(fields, spec);
  LinearAttentionShape shape;
  shape.eps = spec.norm.eps;
  QkvShape& qkv = shape.qkv;
  qkv.hidden = spec.hidden;
  ReadHeads(fields, qkv);
  qkv.key_dim = HeadDim(fields, "expand_k", 1.0, spec.hidden, qkv.heads);
  qkv.value_dim = HeadDim(fields, "expand_v", 1.0, spec.hidden, qkv.heads);
  // The other features have weights of their own.
  const std::string feature = fields.OneOf(
      "feature_map", {"elu", "relu", "identity"}, "elementwise_product");
  if (feature == "elementwise_product") {
    fields.Fail("feature_map", "elementwise_product is not served");
  }
  shape.feature = feature == "elu"    ? Activation::kEluPlusOne
                  : feature == "relu" ? Activation::kRelu
                                      : Activation::kNone;
  shape.normalized = fields.Bool("norm_feature_map", false);
  for (const char* key : {"norm_q", "norm_k"}) {
    if (fields.Bool(key, false)) fields.Fail(key, "is not served");
  }
  // Features that have no weights are the same, tied or not.
  fields.Ignore({"tie_feature_map_qk"});
  fields.OneOf(
      "attn_mode", {"chunk", "fused_chunk", "fused_recurrent"}, "chunk");
  ReadFlaLayers(fields, spec, [shape](int32_t) {
    return std::make_unique<LinearAttention>(shape);
  });
}

}  // namespace weir::engine
