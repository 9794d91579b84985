// SPDX-License-Identifier: Apache-2.0
#include "engine/mixers/performer.h"

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <memory>
#include <string>
#include <utility>

#include "engine/kernels/activation.h"
#include "engine/kernels/favor.h"
#include "engine/mixers/fla_decoder.h"
#include "engine/mixers/key_sums.h"
#include "engine/mixers/parallel.h"

namespace weir::engine {
namespace {

constexpr int64_t kFeaturesMax = 4096;
constexpr float kOne = 1;

// What follows the recurrent state.
constexpr size_t kRest = 1;
constexpr size_t kSum = 2;
constexpr size_t kMaximum = 3;
constexpr size_t kValues = 4;
constexpr size_t kCount = 5;

}  // namespace

Performer::Performer(const PerformerShape& shape)
    : shape_(shape),
      qkv_(shape.qkv, /*bias_apart=*/false),
      projection_(int64_t{shape.features} * shape.qkv.key_dim *
                  (shape.shared_features ? 1 : shape.qkv.heads)),
      no_decay_(static_cast<size_t>(shape.qkv.heads), 0.0F) {}

float Performer::scale() const {
  return shape_.scaled
             ? std::pow(static_cast<float>(shape_.qkv.key_dim), -0.25F)
             : 1.0F;
}

std::vector<WeightSlot> Performer::Weights() {
  std::vector<WeightSlot> slots = qkv_.Weights();
  std::vector<int64_t> shape = {shape_.features, shape_.qkv.key_dim};
  if (!shape_.shared_features) shape.insert(shape.begin(), shape_.qkv.heads);
  slots.push_back({.name = "projection_matrix",
                   .shape = std::move(shape),
                   .buffer = &projection_});
  return slots;
}

std::vector<StateTensor> Performer::State() const {
  const int64_t heads = shape_.qkv.heads;
  const int64_t dim = shape_.qkv.value_dim;
  std::vector<StateTensor> tensors = {
      {.name = "recurrent", .shape = {heads, dim, shape_.features}},
      {.name = "rest", .shape = {heads, dim, shape_.features}},
      {.name = "sum", .shape = {heads, 2, shape_.features}}};
  if (shape_.kernel == PerformerKernel::kRelu) return tensors;
  tensors.push_back({.name = "maximum", .shape = {heads}, .fill = kFavorEmpty});
  tensors.push_back({.name = "values", .shape = {heads, 2, dim}});
  tensors.push_back({.name = "count", .shape = {2}});
  return tensors;
}

int64_t Performer::workspace_floats() const {
  const int64_t heads = shape_.qkv.heads;
  return qkv_.workspace_floats() + qkv_.keys() + shape_.features +
         2 * features() + 4 * heads + 1 + 2 * qkv_.values();
}

Performer::Parts Performer::PartsOf(int64_t tokens, float* workspace) const {
  const int64_t heads = shape_.qkv.heads;
  float* next = workspace + tokens * qkv_.workspace_floats();
  const auto take = [&next, tokens](int64_t floats) {
    float* at = next;
    next += tokens * floats;
    return at;
  };
  Parts parts;
  parts.scaled = take(qkv_.keys());
  parts.head = take(shape_.features);
  parts.q = take(features());
  parts.k = take(features());
  parts.half = take(heads);
  parts.log2_decay = take(heads);
  parts.sums = take(heads);
  parts.dots = take(heads);
  parts.count = take(1);
  parts.values = take(qkv_.values());
  parts.out = take(qkv_.values());
  return parts;
}

void Performer::Project(const Parts& parts,
                        int64_t tokens,
                        const float* x,
                        float* features_out) const {
  const int64_t heads = shape_.qkv.heads;
  const int64_t dim = shape_.qkv.key_dim;
  const float scale = this->scale();
  ParallelFor(tokens, 2 * qkv_.keys(), [&](int64_t begin, int64_t end) {
    for (int64_t t = begin; t < end; ++t) {
      for (int64_t h = 0; h < heads; ++h) {
        const float* from = x + t * parts.qkv.stride + h * dim;
        // Heads with a W each go through it one by one.
        float* to =
            parts.scaled +
            (shape_.shared_features ? t * heads + h : h * tokens + t) * dim;
        float squares = 0;
        for (int64_t i = 0; i < dim; ++i) {
          to[i] = scale * from[i];
          squares += to[i] * to[i];
        }
        parts.half[t * heads + h] = squares / 2;
      }
    }
  });
  const int64_t m = shape_.features;
  if (shape_.shared_features) {
    MatMul({parts.scaled, dim},
           tokens * heads,
           dim,
           projection_.data(),
           m,
           /*bias=*/nullptr,
           features_out);
    return;
  }
  for (int64_t h = 0; h < heads; ++h) {
    MatMul({parts.scaled + h * tokens * dim, dim},
           tokens,
           dim,
           projection_.data() + h * m * dim,
           m,
           /*bias=*/nullptr,
           parts.head);
    for (int64_t t = 0; t < tokens; ++t) {
      std::copy_n(parts.head + t * m, m, features_out + (t * heads + h) * m);
    }
  }
}

void Performer::MakeRelu(int64_t tokens, const Parts& parts) const {
  Project(parts, tokens, parts.qkv.q, parts.q);
  Project(parts, tokens, parts.qkv.k, parts.k);
  ParallelFor(tokens, 4 * features(), [&](int64_t begin, int64_t end) {
    for (float* x : {parts.q, parts.k}) {
      Activate(Activation::kRelu,
               x + begin * features(),
               (end - begin) * features());
      for (int64_t i = begin * features(); i < end * features(); ++i) {
        x[i] += shape_.feature_eps;
      }
    }
  });
}

void Performer::MakeFavor(const MixerInput& input, const Parts& parts) const {
  const Batch& batch = *input.batch;
  const int32_t heads = shape_.qkv.heads;
  // An exponential costs about as much as touching ten floats.
  const int64_t cost = 10 * features();
  Project(parts, batch.tokens, parts.qkv.q, parts.q);
  const FavorQueryArgs queries = {.heads = heads,
                                  .features = shape_.features,
                                  .u = parts.q,
                                  .half = parts.half,
                                  .eps = shape_.feature_eps,
                                  .sums = parts.sums};
  if (batch.form == Form::kReference) {
    FavorQueriesReference(queries, 0, batch.tokens);
  } else {
    ParallelFor(batch.tokens, cost, [&](int64_t begin, int64_t end) {
      FavorQueries(queries, begin, end);
    });
  }
  Project(parts, batch.tokens, parts.qkv.k, parts.k);
  StatePool* pool = input.state.pool;
  const size_t maximum = input.state.first + kMaximum;
  const FavorKeyArgs keys = {.rows = batch.rows,
                             .heads = heads,
                             .features = shape_.features,
                             .row_starts = batch.row_starts,
                             .slots = batch.slots,
                             .u = parts.k,
                             .half = parts.half,
                             .log2_decay = parts.log2_decay,
                             .state = pool->base(maximum),
                             .state_stride = pool->stride(maximum)};
  if (batch.form == Form::kReference) {
    FavorKeysReference(keys);
    return;
  }
  ParallelFor(int64_t{batch.rows} * heads,
              cost / heads * (batch.tokens / batch.rows),
              [&](int64_t begin, int64_t end) { FavorKeys(keys, begin, end); });
}

void Performer::ReadRelu(const MixerInput& input, const Parts& parts) const {
  StatePool* pool = input.state.pool;
  const size_t sum = input.state.first + kSum;
  RunRunningSum(*input.batch,
                {.heads = shape_.qkv.heads,
                 .dim = shape_.features,
                 .x = {parts.k, features()},
                 .log2_decay = {},
                 .q = {parts.q, features()},
                 .eps = shape_.eps,
                 .out = parts.dots,
                 .out_stride = shape_.qkv.heads,
                 .state = pool->base(sum),
                 .state_stride = pool->stride(sum)});
  DivideHeads({.tokens = input.batch->tokens,
               .heads = shape_.qkv.heads,
               .dim = shape_.qkv.value_dim},
              parts.dots,
              parts.out);
}

void Performer::ReadFavor(const MixerInput& input, const Parts& parts) const {
  const Batch& batch = *input.batch;
  const int32_t heads = shape_.qkv.heads;
  StatePool* pool = input.state.pool;
  const auto sums = [&](size_t tensor, RunningSumArgs args) {
    args.state = pool->base(input.state.first + tensor);
    args.state_stride = pool->stride(input.state.first + tensor);
    RunRunningSum(batch, args);
  };
  sums(kSum,
       {.heads = heads,
        .dim = shape_.features,
        .x = {parts.k, features()},
        .log2_decay = {parts.log2_decay, heads},
        .q = {parts.q, features()},
        .eps = shape_.eps * std::sqrt(static_cast<float>(shape_.features)),
        .out = parts.dots,
        .out_stride = heads});
  sums(kValues,
       {.heads = heads,
        .dim = shape_.qkv.value_dim,
        .x = {parts.qkv.v, parts.qkv.stride},
        .log2_decay = {},
        .q = {},
        .out = parts.values,
        .out_stride = qkv_.values()});
  sums(kCount,
       {.heads = 1,
        .dim = 1,
        .x = {&kOne, 0},
        .log2_decay = {},
        .q = {},
        .out = parts.count,
        .out_stride = 1});
  const FavorReadArgs read = {.heads = heads,
                              .value_dim = shape_.qkv.value_dim,
                              .x = parts.out,
                              .sums = parts.sums,
                              .dots = parts.dots,
                              .values = parts.values,
                              .count = parts.count,
                              .eps = shape_.feature_eps};
  ParallelFor(batch.tokens, 3 * qkv_.values(), [&](int64_t begin, int64_t end) {
    FavorRead(read, begin, end);
  });
}

void Performer::Forward(const MixerInput& input,
                        float* workspace,
                        float* out) const {
  const Batch& batch = *input.batch;
  const bool favor = shape_.kernel == PerformerKernel::kFavor;
  Parts parts = PartsOf(batch.tokens, workspace);
  parts.qkv = qkv_.Forward(input, workspace);
  if (favor) {
    MakeFavor(input, parts);
  } else {
    MakeRelu(batch.tokens, parts);
  }
  const int32_t heads = shape_.qkv.heads;
  RunRecurrence(
      batch,
      {.heads = heads,
       .key_heads = heads,
       .key_dim = shape_.features,
       .value_dim = shape_.qkv.value_dim,
       .q = {parts.q, features()},
       .k = {parts.k, features()},
       .v = {parts.qkv.v, parts.qkv.stride},
       .log2_decay = favor ? TokenRows{parts.log2_decay, heads}
                           : TokenRows{no_decay_.data(), 0},
       .out = parts.out,
       .out_stride = qkv_.values(),
       .state = input.state.pool->base(input.state.first),
       .state_stride = input.state.pool->stride(input.state.first),
       .rest = input.state.pool->base(input.state.first + kRest),
       .rest_stride = input.state.pool->stride(input.state.first + kRest)});
  if (favor) {
    ReadFavor(input, parts);
  } else {
    ReadRelu(input, parts);
  }
  qkv_.Output(parts.out, batch.tokens, out);
}

void ReadPerformer(ConfigFields& fields, DecoderSpec& spec) {
  ReadFlaSizes(fields, spec);
  PerformerShape shape;
  shape.qkv = ReadPlainQkv(fields, spec.hidden);
  const bool relu =
      fields.OneOf("kernel", {"favor", "relu"}, "favor") == "relu";
  shape.kernel = relu ? PerformerKernel::kRelu : PerformerKernel::kFavor;
  shape.features =
      static_cast<int32_t>(fields.Int("num_features", 1, kFeaturesMax));
  shape.shared_features = fields.Bool("shared_features", true);
  shape.scaled = fields.Bool("normalize_data", true);
  shape.feature_eps = static_cast<float>(
      fields.Number("feature_eps", kEpsMin, 1, relu ? 1e-3 : 1e-4));
  shape.eps =
      static_cast<float>(fields.Number("normalizer_eps", kEpsMin, 1, 1e-6));
  ReadFlaLayers(fields, spec, [shape](int32_t) {
    return std::make_unique<Performer>(shape);
  });
}

}  // namespace weir::engine
