// SPDX-License-Identifier: Apache-2.0
#include "engine/device/summed_mixers.h"

#include <cmath>

#include "engine/device/summed_part.h"

namespace weir::engine {
namespace {

FeatureMap MapOf(FeatureKind kind) {
  switch (kind) {
    case FeatureKind::kIdentity:
      return FeatureMap::kNone;
    case FeatureKind::kEluPlusOne:
      return FeatureMap::kEluPlusOne;
    case FeatureKind::kRelu:
    case FeatureKind::kT2r:  // of its product
      return FeatureMap::kRelu;
    case FeatureKind::kElementwiseProduct:
      return FeatureMap::kProduct;
    case FeatureKind::kHedgehog:
      return FeatureMap::kHedgehog;
    case FeatureKind::kDpfp:
      return FeatureMap::kDpfp;
  }
  return FeatureMap::kNone;
}

const Linear* ProductOf(const FlaFeatures& features) {
  return features.product().outputs() > 0 ? &features.product() : nullptr;
}

SummedSource SourceOf(const PlainQkv& qkv) {
  const PlainQkvShape& shape = qkv.shape();
  SummedSource source;
  source.front = PlainFront(shape.heads, shape.key_dim, shape.value_dim);
  source.projection = &qkv.projection();
  source.value_dim = shape.value_dim;
  source.out = &qkv.output();
  return source;
}

}  // namespace

absl::StatusOr<std::unique_ptr<DevicePart>> MakeLinearAttentionPart(
    const LinearAttention& from, DeviceWeights& weights) {
  const LinearAttentionShape& of = from.shape();
  SummedSource source;
  source.front = FrontOf(from.qkv(), {});
  source.front.query_scale = 1;  // its features are scaled instead
  source.projection = &from.qkv().projection();
  FeatureShape& features = source.features;
  features.features =
      static_cast<int32_t>(FeaturesOf(of.feature, of.qkv.key_dim));
  features.map = MapOf(of.feature);
  features.divided_queries = of.divided_queries;
  features.divided_keys = of.divided_keys;
  features.query_scale =
      1.0F / std::sqrt(static_cast<float>(features.features));
  source.features_from.query_product = ProductOf(from.query_features());
  source.features_from.key_product = ProductOf(from.key_features());
  source.value_dim = of.qkv.value_dim;
  source.has_sums = of.normalized;
  source.dot_eps = LinearAttention::sum_eps();
  source.norm = &from.output().norm();
  source.norm_eps = of.eps;
  source.out = &from.output().projection();
  return MakeSummedPart(source, weights);
}

absl::StatusOr<std::unique_ptr<DevicePart>> MakeLinearTransformerPart(
    const LinearTransformer& from, DeviceWeights& weights) {
  const LinearTransformerShape& of = from.shape();
  SummedSource source = SourceOf(from.qkv());
  source.features.features = of.qkv.key_dim;
  source.features.map = FeatureMap::kEluPlusOne;
  source.has_sums = of.normalized;
  source.dot_eps = of.eps;
  return MakeSummedPart(source, weights);
}

absl::StatusOr<std::unique_ptr<DevicePart>> MakePerformerPart(
    const Performer& from, DeviceWeights& weights) {
  const PerformerShape& of = from.shape();
  const bool is_favor = of.kernel == PerformerKernel::kFavor;
  SummedSource source = SourceOf(from.qkv());
  FeatureShape& features = source.features;
  features.rule = is_favor ? FeatureRule::kFavor : FeatureRule::kRelu;
  features.features = of.features;
  features.scale = from.scale();
  features.eps = of.feature_eps;
  features.shared = of.shared_features;
  source.features_from.random = {from.projection().data(),
                                 static_cast<size_t>(from.projection().size())};
  source.has_sums = true;
  source.key_eps =
      is_favor ? of.eps * std::sqrt(static_cast<float>(of.features)) : of.eps;
  return MakeSummedPart(source, weights);
}

}  // namespace weir::engine
