// SPDX-License-Identifier: Apache-2.0
#include "engine/device/key_features.h"

#include <algorithm>

#include "base/status_macros.h"

namespace weir::engine {
namespace {

// Each [rows, columns] of `from` turned round, so that neighbouring threads
// read neighbouring numbers.
std::vector<float> Transposed(std::span<const float> from,
                              int64_t rows,
                              int64_t columns) {
  std::vector<float> to(from.size());
  const int64_t size = rows * columns;
  for (int64_t i = 0; i < static_cast<int64_t>(from.size()); ++i) {
    const int64_t in = i % size;
    to[i - in + in % columns * rows + in / columns] = from[i];
  }
  return to;
}

}  // namespace

absl::StatusOr<KeyFeatures> KeyFeatures::Take(const FeatureShape& shape,
                                              const FrontShape& front,
                                              const FeatureSource& from,
                                              DeviceWeights& weights) {
  constexpr char kWhat[] = "the key channels of a head";
  KeyFeatures features;
  features.shape_ = shape;
  features.front_ = front;
  features.number_ = weights.number();
  features.is_tied_ = from.query_product == from.key_product;
  if (from.key_product != nullptr) {
    WEIR_ASSIGN_OR_RETURN(
        features.key_product_,
        DeviceLinear::Take(*from.key_product, kWhat, weights));
  }
  if (!features.is_tied_) {
    WEIR_ASSIGN_OR_RETURN(
        features.query_product_,
        DeviceLinear::Take(*from.query_product, kWhat, weights));
  }
  WEIR_ASSIGN_OR_RETURN(
      features.random_,
      weights.Floats(Transposed(from.random, shape.features, front.key_dim)));
  return features;
}

std::vector<DeviceTensor> KeyFeatures::State() const {
  if (!is_favor()) return {};
  return {{"maximum", {front_.key_heads}, StateNumber::kFloat32}};
}

KeyFeatures::Arrays KeyFeatures::Place(Workspace& workspace,
                                       int64_t padded_tokens) const {
  const int64_t heads = front_.key_heads;
  const auto take = [&](int64_t floats) {
    return static_cast<float*>(workspace.Take(
        padded_tokens * floats * static_cast<int64_t>(sizeof(float))));
  };
  Arrays arrays;
  // What the product touches, to which a head is a token.
  const int64_t touched = PaddedTokens(padded_tokens * heads);
  const auto take_touched = [&](int64_t floats) {
    return static_cast<float*>(
        workspace.Take(touched * floats * static_cast<int64_t>(sizeof(float))));
  };
  arrays.narrow = take_touched(key_product_.inputs());
  arrays.projected = take_touched(key_product_.outputs());
  arrays.q = take(width());
  arrays.k = take(width());
  arrays.half = take(heads);
  arrays.log2_decay = take(heads);
  arrays.query_sums = take(heads);
  return arrays;
}

absl::Status KeyFeatures::Forward(const DeviceInput& input,
                                  const MixerFront& front,
                                  const MixerFront::Arrays& mixed,
                                  const Arrays& arrays,
                                  size_t maximum) const {
  if (shape_.rule != FeatureRule::kMap) {
    return CudaStatus(MakeRandom(input, front, mixed, arrays, maximum),
                      "random features");
  }
  WEIR_RETURN_IF_ERROR(Map(input,
                           front.Mixed(mixed, front_.q),
                           query_product(),
                           arrays,
                           {.y = {},
                            .divided = shape_.divided_queries,
                            .scale = shape_.query_scale,
                            .out = arrays.q}));
  return Map(input,
             front.Mixed(mixed, front_.k),
             key_product_,
             arrays,
             {.y = {}, .divided = shape_.divided_keys, .out = arrays.k});
}

absl::Status KeyFeatures::Map(const DeviceInput& input,
                              TokenRows x,
                              const DeviceLinear& product,
                              const Arrays& arrays,
                              FeatureRowsArgs args) const {
  const int64_t tokens = input.batch->tokens;
  const int32_t heads = front_.key_heads;
  args.map = shape_.map;
  args.heads = heads;
  args.dim = front_.key_dim;
  args.features = shape_.features;
  args.y = x;
  if (product.outputs() > 0) {
    WEIR_RETURN_IF_ERROR(CudaStatus(RoundRows(x,
                                              tokens,
                                              heads * front_.key_dim,
                                              Activation::kNone,
                                              number_,
                                              arrays.narrow,
                                              input.stream),
                                    "a product's input"));
    // All padded tokens' heads, so that as many products are known before the
    // first step as of any other part.
    WEIR_RETURN_IF_ERROR(product.OfRows(
        input, arrays.narrow, PaddedTokens(tokens) * heads, arrays.projected));
    args.y = {arrays.projected, int64_t{heads} * product.outputs()};
  }
  return CudaStatus(FeatureRows(args, tokens, input.stream), "features");
}

cudaError_t KeyFeatures::Project(const DeviceInput& input,
                                 TokenRows x,
                                 const Arrays& arrays,
                                 float* u) const {
  const int64_t size = int64_t{shape_.features} * front_.key_dim;
  return RandomFeatureRows({.heads = front_.key_heads,
                            .dim = front_.key_dim,
                            .features = shape_.features,
                            .x = x,
                            .scale = shape_.scale,
                            .weight = random_.as<float>(),
                            .weight_stride = shape_.shared ? 0 : size,
                            .is_relu = shape_.rule == FeatureRule::kRelu,
                            .eps = shape_.eps,
                            .u = u,
                            .half = arrays.half},
                           input.batch->tokens,
                           input.stream);
}

cudaError_t KeyFeatures::MakeRandom(const DeviceInput& input,
                                    const MixerFront& front,
                                    const MixerFront::Arrays& mixed,
                                    const Arrays& arrays,
                                    size_t maximum) const {
  const DeviceBatch& batch = *input.batch;
  cudaError_t status =
      Project(input, front.Mixed(mixed, front_.q), arrays, arrays.q);
  if (status == cudaSuccess && is_favor()) {
    status = FavorQueryRows({.heads = front_.key_heads,
                             .features = shape_.features,
                             .u = arrays.q,
                             .half = arrays.half,
                             .eps = shape_.eps,
                             .sums = arrays.query_sums},
                            batch.tokens,
                            input.stream);
  }
  if (status != cudaSuccess) return status;
  status = Project(input, front.Mixed(mixed, front_.k), arrays, arrays.k);
  if (status != cudaSuccess || !is_favor()) return status;
  return FavorKeyRows({.rows = batch.rows,
                       .heads = front_.key_heads,
                       .features = shape_.features,
                       .row_starts = batch.row_starts,
                       .slots = batch.slots,
                       .u = arrays.k,
                       .half = arrays.half,
                       .log2_decay = arrays.log2_decay,
                       .state = static_cast<float*>(input.pool->base(maximum)),
                       .state_stride = input.pool->stride(maximum)},
                      batch.consumed,
                      input.stream);
}

}  // namespace weir::engine
