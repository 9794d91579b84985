// SPDX-License-Identifier: Apache-2.0
#include "engine/mixers/mamba2.h"

#include <cstddef>

#include "engine/kernels/pointwise.h"
#include "engine/kernels/short_conv.h"
#include "engine/mixers/parallel.h"

namespace weir::engine {
namespace {

// Rows of the projection begin at cache lines.
constexpr int64_t kRowFloats = 16;

int64_t Inner(const Mamba2Shape& shape) {
  return int64_t{shape.heads} * shape.head_dim;
}

int64_t Mixed(const Mamba2Shape& shape) {
  return Inner(shape) + int64_t{2} * shape.groups * shape.state_dim;
}

// Rows of W_in.
int64_t Projected(const Mamba2Shape& shape) {
  return Inner(shape) + Mixed(shape) + shape.heads;
}

int64_t RoundUp(int64_t value) {
  return (value + kRowFloats - 1) / kRowFloats * kRowFloats;
}

}  // namespace

Mamba2::Mamba2(const Mamba2Shape& shape)
    : shape_(shape),
      in_projection_(shape.hidden, RoundUp(Projected(shape)), shape.bias),
      out_projection_(Inner(shape), shape.hidden, shape.bias),
      conv_(shape.conv_width * Mixed(shape)),
      conv_bias_(shape.conv_bias ? Mixed(shape) : 0),
      a_log_(shape.heads),
      d_(shape.heads),
      dt_bias_(shape.heads),
      norm_(Inner(shape)) {}

std::vector<WeightSlot> Mamba2::Weights() {
  const int64_t heads = shape_.heads;
  std::vector<WeightSlot> slots = {
      in_projection_.Rows("in_proj.weight", 0, Projected(shape_)),
      out_projection_.Rows("out_proj.weight", 0, shape_.hidden),
      {.name = "conv1d.weight",
       .shape = {mixed(), 1, shape_.conv_width},
       .buffer = &conv_,
       .taps_pitch = mixed()},
      {.name = "A_log", .shape = {heads}, .buffer = &a_log_},
      {.name = "D", .shape = {heads}, .buffer = &d_},
      {.name = "dt_bias", .shape = {heads}, .buffer = &dt_bias_},
      {.name = "norm.weight", .shape = {inner()}, .buffer = &norm_},
  };
  if (shape_.conv_bias) {
    slots.push_back(
        {.name = "conv1d.bias", .shape = {mixed()}, .buffer = &conv_bias_});
  }
  if (shape_.bias) {
    slots.push_back(in_projection_.Bias("in_proj.bias", 0, Projected(shape_)));
    slots.push_back(out_projection_.Bias("out_proj.bias", 0, shape_.hidden));
  }
  return slots;
}

std::vector<StateTensor> Mamba2::State() const {
  return {{.name = "recurrent",
           .shape = {shape_.heads, shape_.head_dim, shape_.state_dim}},
          {.name = "conv", .shape = {shape_.conv_width - 1, mixed()}}};
}

int64_t Mamba2::workspace_floats() const {
  return in_projection_.outputs() + mixed() + 2 * inner() + shape_.heads;
}

void Mamba2::Forward(const Batch& batch,
                     const float* x,
                     LayerState state,
                     float* workspace,
                     float* out) const {
  const int64_t tokens = batch.tokens;
  const int64_t width = in_projection_.outputs();
  float* projected = workspace;
  float* xbc = projected + tokens * width;
  float* v = xbc + tokens * mixed();
  float* y = v + tokens * inner();
  float* log2_decay = y + tokens * inner();
  const TokenRows z = {projected, width};
  const TokenRows skip = {xbc, mixed()};

  in_projection_.Forward(x, tokens, projected);
  RunShortConv(batch,
               {.channels = static_cast<int32_t>(mixed()),
                .width = shape_.conv_width,
                .x = {projected + inner(), width},
                .weight = conv_.data(),
                .bias = conv_bias_.data(),
                .out = xbc,
                .out_stride = mixed(),
                .state = state.pool->base(state.first + 1),
                .state_stride = state.pool->stride(state.first + 1)});
  const TimeStepArgs time_step = {.heads = shape_.heads,
                                  .head_dim = shape_.head_dim,
                                  .dt = {projected + inner() + mixed(), width},
                                  .x = skip,
                                  .a_log = a_log_.data(),
                                  .dt_bias = dt_bias_.data(),
                                  .dt_min = shape_.dt_min,
                                  .dt_max = shape_.dt_max,
                                  .log2_decay = log2_decay,
                                  .v = v};
  ParallelFor(tokens, 2 * inner(), [&](int64_t begin, int64_t end) {
    TimeStep(time_step, begin, end);
  });
  RunRecurrence(batch,
                {.heads = shape_.heads,
                 .key_heads = shape_.groups,
                 .key_dim = shape_.state_dim,
                 .value_dim = shape_.head_dim,
                 .q = {xbc + inner() + group_floats(), mixed()},
                 .k = {xbc + inner(), mixed()},
                 .v = {v, inner()},
                 .log2_decay = {log2_decay, shape_.heads},
                 .beta = {},
                 .out = y,
                 .out_stride = inner(),
                 .state = state.pool->base(state.first),
                 .state_stride = state.pool->stride(state.first)});
  const GatedNormArgs norm = {.groups = 1,
                              .width = static_cast<int32_t>(inner()),
                              .x = {y, inner()},
                              .z = z,
                              .weight = norm_.data(),
                              .shared_weight = false,
                              .eps = shape_.eps,
                              .gate = GateKind::kSilu,
                              .order = GateOrder::kBeforeNorm,
                              .out = y};
  ParallelFor(tokens, 4 * inner(), [&](int64_t begin, int64_t end) {
    AddSkip(skip, d_.data(), shape_.heads, shape_.head_dim, y, begin, end);
    GatedNorm(norm, begin, end);
  });
  out_projection_.Forward(y, tokens, out);
}

}  // namespace weir::engine
