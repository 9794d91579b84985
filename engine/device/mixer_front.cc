// SPDX-License-Identifier: Apache-2.0
#include "engine/device/mixer_front.h"

#include "base/status_macros.h"

namespace weir::engine {

FrontShape FrontOf(const QkvProjection& qkv, std::optional<HeadNorm> norm) {
  const QkvShape& from = qkv.shape();
  FrontShape shape;
  shape.width = static_cast<int32_t>(qkv.mixed());
  shape.conv_width = from.conv_width;
  if (from.silu || from.conv_width > 0) {
    shape.silu_begin = static_cast<int32_t>(qkv.plain());
    shape.silu_end = shape.width;
  }
  shape.mapped = static_cast<int32_t>((1 + from.writes) * qkv.keys());
  shape.map = from.qk_map;
  shape.key_heads = from.key_heads;
  shape.key_dim = from.key_dim;
  shape.writes = from.writes;
  shape.k = qkv.keys();
  shape.v = (1 + from.writes) * qkv.keys();
  shape.norm = norm;
  shape.norm_eps = QkvProjection::norm_eps();
  shape.query_scale = qkv.query_scale();
  return shape;
}

FrontShape PlainFront(int32_t heads, int32_t key_dim, int32_t value_dim) {
  FrontShape front;
  front.width = heads * (2 * key_dim + value_dim);
  front.key_heads = heads;
  front.key_dim = key_dim;
  front.k = int64_t{heads} * key_dim;
  front.v = 2 * front.k;
  return front;
}

RaggedRows RaggedOf(const DeviceBatch& batch) {
  return {.rows = batch.rows,
          .tokens = batch.tokens,
          .row_starts = batch.row_starts,
          .slots = batch.slots,
          .consumed = batch.consumed};
}

absl::StatusOr<MixerFront> MixerFront::Take(const FrontShape& shape,
                                            const Linear& projection,
                                            const Buffer* conv,
                                            const Buffer* conv_bias,
                                            DeviceWeights& weights) {
  MixerFront front;
  front.shape_ = shape;
  WEIR_ASSIGN_OR_RETURN(
      front.projection_,
      DeviceLinear::Take(projection, "the hidden size", weights));
  if (conv != nullptr) {
    WEIR_ASSIGN_OR_RETURN(front.conv_, weights.Floats(*conv));
  }
  if (conv_bias != nullptr) {
    WEIR_ASSIGN_OR_RETURN(front.conv_bias_, weights.Floats(*conv_bias));
  }
  return front;
}

absl::StatusOr<MixerFront> MixerFront::Take(const QkvProjection& from,
                                            std::optional<HeadNorm> norm,
                                            DeviceWeights& weights) {
  return Take(FrontOf(from, norm),
              from.projection(),
              &from.conv(),
              &from.conv_bias(),
              weights);
}

std::vector<DeviceTensor> MixerFront::State() const {
  if (shape_.conv_width == 0) return {};
  return {
      {"conv", {shape_.conv_width - 1, shape_.width}, StateNumber::kFloat32}};
}

MixerFront::Arrays MixerFront::Place(Workspace& workspace,
                                     int64_t padded_tokens) const {
  const auto take = [&](int64_t floats) {
    return static_cast<float*>(workspace.Take(
        padded_tokens * floats * static_cast<int64_t>(sizeof(float))));
  };
  return {.projected = take(columns()), .mixed = take(shape_.width)};
}

absl::Status MixerFront::Forward(const DeviceInput& input,
                                 const Arrays& arrays,
                                 size_t window) const {
  WEIR_RETURN_IF_ERROR(projection_.OfNorm(input, arrays.projected));
  MixRowsArgs mix = {.of = RaggedOf(*input.batch),
                     .channels = shape_.width,
                     .conv_width = shape_.conv_width,
                     .silu_begin = shape_.silu_begin,
                     .silu_end = shape_.silu_end,
                     .mapped = shape_.mapped,
                     .map = shape_.map,
                     .x = Column(arrays, shape_.column),
                     .weight = conv_.as<float>(),
                     .bias = conv_bias_.as<float>(),
                     .out = arrays.mixed};
  if (shape_.conv_width > 0) {
    mix.window = static_cast<float*>(input.pool->base(window));
    mix.window_stride = input.pool->stride(window);
  }
  // Where q is the first.
  if (!shape_.norm.has_value() && shape_.query_scale != 1 && shape_.q == 0) {
    mix.scaled = shape_.key_heads * shape_.key_dim;
    mix.scale = shape_.query_scale;
  }
  WEIR_RETURN_IF_ERROR(CudaStatus(MixRows(mix, input.stream),
                                  "a mixer's convolution and activations"));
  return NormalizeQueriesAndKeys(input, arrays);
}

absl::Status MixerFront::NormalizeQueriesAndKeys(const DeviceInput& input,
                                                 const Arrays& arrays) const {
  if (!shape_.norm.has_value()) return absl::OkStatus();
  HeadNormArgs heads = {.norm = *shape_.norm,
                        .heads = shape_.key_heads,
                        .dim = shape_.key_dim,
                        .x = arrays.mixed + shape_.q,
                        .stride = shape_.width,
                        .eps = shape_.norm_eps,
                        .scale = shape_.query_scale};
  const int64_t tokens = input.batch->tokens;
  WEIR_RETURN_IF_ERROR(CudaStatus(
      NormalizeHeadRows(heads, tokens, input.stream), "the norm of queries"));
  heads.heads *= shape_.writes;
  heads.x = arrays.mixed + shape_.k;
  heads.scale = 1;
  return CudaStatus(NormalizeHeadRows(heads, tokens, input.stream),
                    "the norm of keys");
}

}  // namespace weir::engine
