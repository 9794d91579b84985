// SPDX-License-Identifier: Apache-2.0
#include "engine/device/recurrent_mixers.h"

#include <cmath>
#include <cstddef>
#include <vector>

#include "engine/device/recurrent_part.h"

namespace weir::engine {
namespace {

std::span<const float> Floats(const Buffer& buffer) {
  return {buffer.data(), static_cast<size_t>(buffer.size())};
}

// Of a mixer whose queries, keys and values are `qkv`'s and whose end is
// `output`'s, one norm a head.
RecurrentSource SourceOf(const QkvProjection& qkv,
                         std::optional<HeadNorm> norm,
                         const HeadOutput& output,
                         float eps) {
  RecurrentSource source;
  source.front = FrontOf(qkv, norm);
  source.projection = &qkv.projection();
  source.conv = &qkv.conv();
  source.conv_bias = &qkv.conv_bias();
  source.out = &output.projection();
  source.norm = &output.norm();
  source.gates.heads = qkv.shape().heads;
  source.gates.value_dim = qkv.shape().value_dim;
  source.end.groups = qkv.shape().heads;
  source.end.eps = eps;
  return source;
}

float RootOfInverse(int32_t dim) {
  return 1.0F / std::sqrt(static_cast<float>(dim));
}

std::vector<float> Zeros(int32_t count) {
  return std::vector<float>(static_cast<size_t>(count), 0.0F);
}

}  // namespace

MadePart MakeDeltaNetPart(const DeltaNet& from, DeviceWeights& weights) {
  const DeltaNetShape& of = from.shape();
  RecurrentSource source = SourceOf(from.qkv(), of.norm, from.output(), of.eps);
  source.gates.rule = of.beta ? GateRule::kBeta : GateRule::kFixed;
  source.gates.b_column = from.b_column();
  source.gates.beta_scale = of.negative_eigenvalues ? 2.0F : 1.0F;
  source.end.gate_column = from.gate_column();
  source.end.gate = of.gate ? GateKind::kSilu : GateKind::kNone;
  const std::vector<float> none = Zeros(source.gates.heads);
  const std::vector<float> beta(none.size(), source.gates.beta_scale);
  source.gates_from.log2_decay = none;
  if (!of.beta) source.gates_from.beta = beta;
  return MakeRecurrentPart(source, weights);
}

MadePart MakeAnyGatedDeltaPart(const GatedDeltaNet& from,
                               DeviceWeights& weights) {
  const GatedDeltaNetShape& of = from.shape();
  RecurrentSource source =
      SourceOf(from.qkv(), HeadNorm::kL2, from.output(), of.eps);
  source.gates.rule = GateRule::kDelta;
  source.gates.a_column = from.a_column();
  source.gates.b_column = from.b_column();
  source.gates.beta_scale = of.negative_eigenvalues ? 2.0F : 1.0F;
  source.end.gate_column = from.gate_column();
  source.end.gate = of.gate;
  source.gates_from.a_log = Floats(from.a_log());
  source.gates_from.dt_bias = Floats(from.dt_bias());
  return MakeRecurrentPart(source, weights);
}

MadePart MakeGatedDeltaProductPart(const GatedDeltaProduct& from,
                                   DeviceWeights& weights) {
  const GatedDeltaProductShape& of = from.shape();
  RecurrentSource source =
      SourceOf(from.qkv(), HeadNorm::kL2, from.output(), of.eps);
  source.gates.rule = of.decay ? GateRule::kDelta : GateRule::kBeta;
  source.gates.a_column = from.a_column();
  source.gates.b_column = from.b_column();
  source.gates.beta_scale = of.negative_eigenvalues ? 2.0F : 1.0F;
  source.end.gate_column = from.gate_column();
  source.end.gate = of.gate ? GateKind::kSilu : GateKind::kNone;
  const std::vector<float> none = Zeros(source.gates.heads);
  if (of.decay) {
    source.gates_from.a_log = Floats(from.a_log());
    source.gates_from.dt_bias = Floats(from.dt_bias());
  } else {
    source.gates_from.log2_decay = none;
  }
  return MakeRecurrentPart(source, weights);
}

MadePart MakeGdn2Part(const Gdn2& from, DeviceWeights& weights) {
  const Gdn2Shape& of = from.shape();
  RecurrentSource source =
      SourceOf(from.qkv(), HeadNorm::kL2, from.output(), of.eps);
  source.gates.rule = GateRule::kGdn2;
  source.gates.b_column = from.b_column();
  source.gates.w_column = from.w_column();
  source.gates.decay_column = from.decay_column();
  source.end.gate_column = from.gate_column();
  source.gates.beta_scale = of.negative_eigenvalues ? 2.0F : 1.0F;
  source.end.gate = GateKind::kSigmoid;
  source.gates_from.decay_up = &from.decay_up();
  source.gate_up = &from.gate_up();
  source.gates_from.a_log = Floats(from.a_log());
  source.gates_from.dt_bias = Floats(from.dt_bias());
  return MakeRecurrentPart(source, weights);
}

MadePart MakeGlaPart(const GatedLinearAttention& from, DeviceWeights& weights) {
  const GatedLinearAttentionShape& of = from.shape();
  RecurrentSource source = SourceOf(from.qkv(), {}, from.output(), of.eps);
  source.gates.rule = GateRule::kKeySigmoid;
  source.gates.decay_column = from.decay_column();
  source.gates.decay_scale = 1 / of.normalizer;
  source.gates.low = of.low;
  source.end.gate_column = from.gate_column();
  source.end.gate = of.gate ? GateKind::kSilu : GateKind::kNone;
  source.gates_from.decay_up = &from.decay_up();
  return MakeRecurrentPart(source, weights);
}

MadePart MakeHgrn2Part(const Hgrn2& from, DeviceWeights& weights) {
  const Hgrn2Shape& of = from.shape();
  RecurrentSource source;
  source.front = PlainFront(of.heads, of.key_dim, of.value_dim);
  source.front.silu_end = of.heads * of.key_dim;
  source.front.query_scale = RootOfInverse(of.key_dim);
  source.projection = &from.projection();
  source.out = &from.out_projection();
  source.norm = &from.norm();
  source.gates_from.low = from.low();
  source.gates.heads = of.heads;
  source.gates.value_dim = of.value_dim;
  source.gates.rule = GateRule::kHgrn;
  source.gates.a_column = source.front.k;
  source.end.eps = of.eps;
  return MakeRecurrentPart(source, weights);
}

MadePart MakeKdaPart(const Kda& from, DeviceWeights& weights) {
  const KdaShape& of = from.shape();
  RecurrentSource source =
      SourceOf(from.qkv(), HeadNorm::kL2, from.output(), of.eps);
  source.gates.rule = GateRule::kKda;
  source.gates.b_column = from.b_column();
  source.gates.decay_column = from.decay_column();
  source.end.gate_column = from.gate_column();
  source.gates.beta_scale = of.negative_eigenvalues ? 2.0F : 1.0F;
  source.gates.bound = of.bound;
  source.end.gate = GateKind::kSigmoid;
  source.gates_from.decay_up = &from.decay_up();
  source.gate_up = &from.gate_up();
  source.gates_from.a_log = Floats(from.a_log());
  source.gates_from.dt_bias = Floats(from.dt_bias());
  return MakeRecurrentPart(source, weights);
}

MadePart MakeLightningPart(const Lightning& from, DeviceWeights& weights) {
  const LightningShape& of = from.shape();
  RecurrentSource source;
  source.front = PlainFront(of.heads, of.head_dim, of.head_dim);
  source.front.silu_end = source.front.width;
  if (of.slopes == Slopes::kFla) {
    source.front.query_scale = RootOfInverse(of.head_dim);
  }
  source.projection = &from.projection();
  source.out = &from.out_projection();
  source.norm = &from.norm();
  source.gates_from.log2_decay = from.log2_decay();
  source.gates.heads = of.heads;
  source.gates.value_dim = of.head_dim;
  source.end.gate_column = source.front.width;
  source.end.eps = from.norm_eps();
  source.end.gate = GateKind::kSigmoid;
  return MakeRecurrentPart(source, weights);
}

MadePart MakeMamba2Part(const Mamba2& from, DeviceWeights& weights) {
  const Mamba2Shape& of = from.shape();
  const int32_t inner = of.heads * of.head_dim;
  const int32_t group = of.groups * of.state_dim;
  RecurrentSource source;
  FrontShape& front = source.front;
  front.column = inner;  // behind z
  front.width = inner + 2 * group;
  front.conv_width = of.conv_width;
  front.silu_end = front.width;
  front.key_heads = of.groups;
  front.key_dim = of.state_dim;
  front.k = inner;
  front.q = inner + group;
  source.projection = &from.in_projection();
  source.conv = &from.conv();
  source.conv_bias = &from.conv_bias();
  source.out = &from.out_projection();
  source.norm = &from.norm();
  source.gates_from.a_log = Floats(from.a_log());
  source.gates_from.dt_bias = Floats(from.dt_bias());
  source.skip = Floats(from.d());
  source.gates.heads = of.heads;
  source.gates.value_dim = of.head_dim;
  source.gates.rule = GateRule::kTimeStep;
  source.gates.a_column = front.column + front.width;
  source.gates.dt_min = of.dt_min;
  source.gates.dt_max = of.dt_max;
  source.end.groups = of.norm_groups;
  source.end.shared_weight = false;
  source.end.eps = of.eps;
  source.end.gate = GateKind::kSilu;
  source.end.order = of.order;
  return MakeRecurrentPart(source, weights);
}

MadePart MakeRetentionPart(const Retention& from, DeviceWeights& weights) {
  const RetentionShape& of = from.shape();
  RecurrentSource source = SourceOf(from.qkv(), {}, from.output(), of.eps);
  source.end.gate_column = from.gate_column();
  source.end.gate = of.gate ? GateKind::kSilu : GateKind::kNone;
  source.gates_from.log2_decay = from.log2_decay();
  source.angles = from.angle_per_token();
  return MakeRecurrentPart(source, weights);
}

MadePart MakeSimpleGlaPart(const SimpleGla& from, DeviceWeights& weights) {
  const SimpleGlaShape& of = from.shape();
  RecurrentSource source = SourceOf(from.qkv(), {}, from.output(), of.eps);
  source.gates.rule = GateRule::kHeadSigmoid;
  source.gates.a_column = from.decay_column();
  source.gates.decay_scale = 1 / of.normalizer;
  source.end.gate_column = from.gate_column();
  source.end.gate = of.gate;
  source.gates_from.decay_bias = Floats(from.decay_bias());
  return MakeRecurrentPart(source, weights);
}

}  // namespace weir::engine
