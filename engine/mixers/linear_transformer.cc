// SPDX-License-Identifier: Apache-2.0
#include "engine/mixers/linear_transformer.h"

#include <cstddef>
#include <memory>

#include "engine/kernels/activation.h"
#include "engine/mixers/fla_decoder.h"
#include "engine/mixers/key_sums.h"
#include "engine/mixers/parallel.h"

namespace weir::engine {
namespace {

// What follows the recurrent state.
constexpr size_t kRest = 1;
constexpr size_t kSum = 2;

}  // namespace

LinearTransformer::LinearTransformer(const LinearTransformerShape& shape)
    : shape_(shape),
      qkv_(shape.qkv, /*bias_apart=*/false),
      no_decay_(static_cast<size_t>(shape.qkv.heads), 0.0F) {}

std::vector<StateTensor> LinearTransformer::State() const {
  const PlainQkvShape& qkv = shape_.qkv;
  std::vector<StateTensor> tensors = {
      {.name = "recurrent", .shape = {qkv.heads, qkv.value_dim, qkv.key_dim}},
      {.name = "rest", .shape = {qkv.heads, qkv.value_dim, qkv.key_dim}}};
  if (shape_.normalized) {
    tensors.push_back({.name = "sum", .shape = {qkv.heads, 2, qkv.key_dim}});
  }
  return tensors;
}

int64_t LinearTransformer::workspace_floats() const {
  return qkv_.workspace_floats() + qkv_.values() + shape_.qkv.heads;
}

void LinearTransformer::Forward(const MixerInput& input,
                                float* workspace,
                                float* out) const {
  const Batch& batch = *input.batch;
  const int64_t tokens = batch.tokens;
  const int32_t heads = shape_.qkv.heads;
  float* mixed_out = workspace + tokens * qkv_.workspace_floats();
  float* dots = mixed_out + tokens * qkv_.values();

  const PlainQkv::Result qkv = qkv_.Forward(input, workspace);
  ParallelFor(tokens, 16 * qkv_.keys(), [&](int64_t begin, int64_t end) {
    for (int64_t t = begin; t < end; ++t) {
      // q and k lie side by side.
      Activate(
          Activation::kEluPlusOne, qkv.q + t * qkv.stride, 2 * qkv_.keys());
    }
  });
  RunRecurrence(
      batch,
      {.heads = heads,
       .key_heads = heads,
       .key_dim = shape_.qkv.key_dim,
       .value_dim = shape_.qkv.value_dim,
       .q = {qkv.q, qkv.stride},
       .k = {qkv.k, qkv.stride},
       .v = {qkv.v, qkv.stride},
       .log2_decay = {no_decay_.data(), 0},
       .out = mixed_out,
       .out_stride = qkv_.values(),
       .state = input.state.pool->base(input.state.first),
       .state_stride = input.state.pool->stride(input.state.first),
       .rest = input.state.pool->base(input.state.first + kRest),
       .rest_stride = input.state.pool->stride(input.state.first + kRest)});
  if (shape_.normalized) {
    const size_t sum = input.state.first + kSum;
    RunRunningSum(batch,
                  {.heads = heads,
                   .dim = shape_.qkv.key_dim,
                   .x = {qkv.k, qkv.stride},
                   .log2_decay = {},
                   .q = {qkv.q, qkv.stride},
                   .out = dots,
                   .out_stride = heads,
                   .state = input.state.pool->base(sum),
                   .state_stride = input.state.pool->stride(sum)});
    DivideHeads({.tokens = tokens,
                 .heads = heads,
                 .dim = shape_.qkv.value_dim,
                 .eps = shape_.eps},
                dots,
                mixed_out);
  }
  qkv_.Output(mixed_out, tokens, out);
}

void ReadLinearTransformer(ConfigFields& fields, DecoderSpec& spec) {
  ReadFlaSizes(fields, spec);
  LinearTransformerShape shape;
  shape.qkv = ReadPlainQkv(fields, spec.hidden);
  shape.normalized = fields.Bool("normalize", true);
  shape.eps =
      static_cast<float>(fields.Number("normalizer_eps", kEpsMin, 1, 1e-6));
  ReadFlaLayers(fields, spec, [shape](int32_t) {
    return std::make_unique<LinearTransformer>(shape);
  });
}

}  // namespace weir::engine
