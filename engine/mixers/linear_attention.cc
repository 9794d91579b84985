// SPDX-License-Identifier: Apache-2.0
#include "engine/mixers/linear_attention.h"

#include <cmath>
#include <cstddef>
#include <iterator>
#include <memory>
#include <string>
#include <utility>

#include "absl/strings/str_cat.h"
#include "engine/mixers/fla_decoder.h"
#include "engine/mixers/key_sums.h"
#include "engine/mixers/parallel.h"

namespace weir::engine {
namespace {

// What a sum of keys is kept above; no configuration names it.
constexpr float kSumEps = 1e-10F;
// Behind the recurrence's state.
constexpr size_t kRest = 1;
constexpr size_t kSum = 2;

constexpr const char* kQueryPrefix = "feature_map_q.";
constexpr const char* kKeyPrefix = "feature_map_k.";

FeatureKind ReadFeature(ConfigFields& fields) {
  const std::string name = fields.OneOf("feature_map",
                                        {"elu",
                                         "relu",
                                         "identity",
                                         "t2r",
                                         "elementwise_product",
                                         "hedgehog",
                                         "dpfp"},
                                        "elementwise_product");
  return name == "elu"        ? FeatureKind::kEluPlusOne
         : name == "relu"     ? FeatureKind::kRelu
         : name == "identity" ? FeatureKind::kIdentity
         : name == "t2r"      ? FeatureKind::kT2r
         : name == "hedgehog" ? FeatureKind::kHedgehog
         : name == "dpfp"     ? FeatureKind::kDpfp
                              : FeatureKind::kElementwiseProduct;
}

// The queries' name of a map that they share with the keys: a checkpoint has
// its weights once, or a second time under this name.
void ForgetQueryFeatures(const LinearAttentionShape& shape, DecoderSpec& spec) {
  FlaFeatures map(shape.feature, shape.qkv.heads, shape.qkv.key_dim);
  for (int32_t layer = 0; layer < spec.layers; ++layer) {
    const std::string prefix =
        absl::StrCat(spec.names.layers, layer, ".attn.", kQueryPrefix);
    for (const WeightSlot& slot : map.Weights(prefix)) {
      spec.unused.push_back({.name = slot.name, .shape = slot.shape});
    }
  }
}

}  // namespace

LinearAttention::LinearAttention(const LinearAttentionShape& shape)
    : shape_(shape),
      qkv_(shape.qkv, 0),
      query_features_(shape.feature, shape.qkv.heads, shape.qkv.key_dim),
      key_features_(shape.feature, shape.qkv.heads, shape.qkv.key_dim),
      output_(shape.qkv, shape.eps, GateKind::kNone, "norm.weight"),
      no_decay_(static_cast<size_t>(shape.qkv.heads), 0.0F) {}

float LinearAttention::sum_eps() { return kSumEps; }

std::vector<WeightSlot> LinearAttention::Weights() {
  std::vector<WeightSlot> slots = qkv_.Weights();
  const auto add = [&slots](std::vector<WeightSlot> more) {
    std::move(more.begin(), more.end(), std::back_inserter(slots));
  };
  if (!shape_.tied) add(query_features_.Weights(kQueryPrefix));
  add(key_features_.Weights(kKeyPrefix));
  for (WeightSlot& slot : output_.Weights()) slots.push_back(std::move(slot));
  return slots;
}

std::vector<StateTensor> LinearAttention::State() const {
  const QkvShape& qkv = shape_.qkv;
  std::vector<StateTensor> tensors = {
      {.name = "recurrent", .shape = {qkv.heads, qkv.value_dim, features()}},
      {.name = "rest", .shape = {qkv.heads, qkv.value_dim, features()}}};
  if (shape_.normalized) {
    tensors.push_back({.name = "sum", .shape = {qkv.heads, 2, features()}});
  }
  return tensors;
}

int64_t LinearAttention::workspace_floats() const {
  return qkv_.workspace_floats() + 2 * feature_width() + values() +
         shape_.qkv.heads + key_features_.workspace_floats();
}

void LinearAttention::Map(const QkvProjection::Result& qkv,
                          int64_t tokens,
                          float* workspace,
                          const Features& to) const {
  query_features().Forward({qkv.q, qkv.stride}, tokens, workspace, to.q);
  key_features_.Forward({qkv.k, qkv.stride}, tokens, workspace, to.k);
  const float scale = 1.0F / std::sqrt(static_cast<float>(features()));
  const int64_t heads = shape_.qkv.heads;
  const int64_t width = feature_width();
  ParallelFor(tokens, 2 * width, [&](int64_t begin, int64_t end) {
    float* q = to.q + begin * width;
    const int64_t count = (end - begin) * heads;
    if (shape_.divided_queries) DivideBySums(q, count, features());
    if (shape_.divided_keys) {
      DivideBySums(to.k + begin * width, count, features());
    }
    for (int64_t i = 0; i < (end - begin) * width; ++i) q[i] *= scale;
  });
}

void LinearAttention::Normalize(const MixerInput& input,
                                const Features& from,
                                float* sums,
                                float* mixed_out) const {
  const int32_t heads = shape_.qkv.heads;
  const size_t tensor = input.state.first + kSum;
  RunRunningSum(*input.batch,
                {.heads = heads,
                 .dim = static_cast<int32_t>(features()),
                 .x = {from.k, feature_width()},
                 .log2_decay = {},
                 .q = {from.q, feature_width()},
                 .out = sums,
                 .out_stride = heads,
                 .state = input.state.pool->base(tensor),
                 .state_stride = input.state.pool->stride(tensor)});
  DivideHeads({.tokens = input.batch->tokens,
               .heads = heads,
               .dim = shape_.qkv.value_dim,
               .eps = kSumEps},
              sums,
              mixed_out);
}

void LinearAttention::Forward(const MixerInput& input,
                              float* workspace,
                              float* out) const {
  const int64_t tokens = input.batch->tokens;
  const int32_t heads = shape_.qkv.heads;
  Features features;
  features.q = workspace + tokens * qkv_.workspace_floats();
  features.k = features.q + tokens * feature_width();
  float* mixed_out = features.k + tokens * feature_width();
  float* sums = mixed_out + tokens * values();
  float* middle = sums + tokens * heads;

  const QkvProjection::Result qkv =
      qkv_.Forward(input, input.state.first, workspace);
  Map(qkv, tokens, middle, features);
  RecurrenceArgs recurrence = qkv_.Recurrence(input, qkv, mixed_out);
  recurrence.key_dim = static_cast<int32_t>(this->features());
  recurrence.q = {features.q, feature_width()};
  recurrence.k = {features.k, feature_width()};
  recurrence.log2_decay = {no_decay_.data(), 0};
  const size_t rest = input.state.first + kRest;
  recurrence.rest = input.state.pool->base(rest);
  recurrence.rest_stride = input.state.pool->stride(rest);
  RunRecurrence(*input.batch, recurrence);
  if (shape_.normalized) Normalize(input, features, sums, mixed_out);
  output_.Forward({mixed_out, values()}, {}, tokens, mixed_out, out);
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
  shape.feature = ReadFeature(fields);
  shape.tied = fields.Bool("tie_feature_map_qk", false);
  shape.divided_queries = fields.Bool("norm_q", false);
  shape.divided_keys = fields.Bool("norm_k", false);
  shape.normalized = fields.Bool("norm_feature_map", false);
  fields.OneOf(
      "attn_mode", {"chunk", "fused_chunk", "fused_recurrent"}, "chunk");
  if (shape.tied) ForgetQueryFeatures(shape, spec);
  ReadFlaLayers(fields, spec, [shape](int32_t) {
    return std::make_unique<LinearAttention>(shape);
  });
}

}  // namespace weir::engine
