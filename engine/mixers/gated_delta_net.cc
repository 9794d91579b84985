// SPDX-License-Identifier: Apache-2.0
#include "engine/mixers/gated_delta_net.h"

#include <cmath>
#include <cstddef>
#include <memory>
#include <string>

#include "absl/strings/str_cat.h"
#include "engine/kernels/short_conv.h"
#include "engine/mixers/fla_decoder.h"
#include "engine/mixers/parallel.h"

namespace weir::engine {
namespace {

// The norm of q and k is taken of their squares plus this, in every
// checkpoint; the configuration does not name it.
constexpr float kLengthEps = 1e-6f;
// Rows of the projection begin at cache lines.
constexpr int64_t kRowFloats = 16;

int64_t RoundUp(int64_t value) {
  return (value + kRowFloats - 1) / kRowFloats * kRowFloats;
}

int64_t Keys(const GatedDeltaNetShape& shape) {
  return int64_t{shape.key_heads} * shape.key_dim;
}

int64_t Values(const GatedDeltaNetShape& shape) {
  return int64_t{shape.heads} * shape.value_dim;
}

int64_t Mixed(const GatedDeltaNetShape& shape) {
  return 2 * Keys(shape) + Values(shape);
}

int64_t GateColumns(const GatedDeltaNetShape& shape) {
  return shape.gate == GateKind::kNone ? 0 : Values(shape);
}

}  // namespace

GatedDeltaNet::GatedDeltaNet(const GatedDeltaNetShape& shape)
    : shape_(shape),
      gate_column_(Mixed(shape)),
      a_column_(gate_column_ + GateColumns(shape)),
      b_column_(a_column_ + shape.heads),
      projection_(shape.hidden, RoundUp(b_column_ + shape.heads), false),
      out_projection_(Values(shape), shape.hidden, false),
      conv_(shape.conv_width * Mixed(shape)),
      conv_bias_(shape.conv_bias ? Mixed(shape) : 0),
      a_log_(shape.heads),
      dt_bias_(shape.heads),
      norm_(shape.value_dim) {}

std::vector<WeightSlot> GatedDeltaNet::Weights() {
  const int64_t heads = shape_.heads;
  std::vector<WeightSlot> slots = {
      projection_.Rows("q_proj.weight", 0, keys()),
      projection_.Rows("k_proj.weight", keys(), keys()),
      projection_.Rows("v_proj.weight", 2 * keys(), values()),
      projection_.Rows("a_proj.weight", a_column_, heads),
      projection_.Rows("b_proj.weight", b_column_, heads),
      out_projection_.Rows("o_proj.weight", 0, shape_.hidden),
      {.name = "A_log", .shape = {heads}, .buffer = &a_log_},
      {.name = "dt_bias", .shape = {heads}, .buffer = &dt_bias_},
      {.name = "o_norm.weight", .shape = {shape_.value_dim}, .buffer = &norm_},
  };
  if (shape_.gate != GateKind::kNone) {
    slots.push_back(projection_.Rows("g_proj.weight", gate_column_, values()));
  }
  if (shape_.conv_width == 0) return slots;
  struct Part {
    const char* name;
    int64_t first;
    int64_t channels;
  };
  for (const Part& part : {Part{"q_conv1d", 0, keys()},
                           Part{"k_conv1d", keys(), keys()},
                           Part{"v_conv1d", 2 * keys(), values()}}) {
    slots.push_back({.name = std::string(part.name) + ".weight",
                     .shape = {part.channels, 1, shape_.conv_width},
                     .buffer = &conv_,
                     .offset = part.first,
                     .taps_pitch = mixed()});
    if (shape_.conv_bias) {
      slots.push_back({.name = std::string(part.name) + ".bias",
                       .shape = {part.channels},
                       .buffer = &conv_bias_,
                       .offset = part.first});
    }
  }
  return slots;
}

std::vector<StateTensor> GatedDeltaNet::State() const {
  std::vector<StateTensor> tensors = {
      {.name = "recurrent",
       .shape = {shape_.heads, shape_.value_dim, shape_.key_dim}}};
  if (shape_.conv_width > 0) {
    tensors.push_back(
        {.name = "conv", .shape = {shape_.conv_width - 1, mixed()}});
  }
  return tensors;
}

int64_t GatedDeltaNet::workspace_floats() const {
  return projection_.outputs() + mixed() + values() + 2 * shape_.heads;
}

// qkv = silu(conv(projected)), q and k of length one per head.
void GatedDeltaNet::Activate(const Batch& batch,
                             const float* projected,
                             LayerState state,
                             float* qkv) const {
  const TokenRows in = {projected, projection_.outputs()};
  if (shape_.conv_width > 0) {
    const size_t tensor = state.first + 1;
    RunShortConv(batch,
                 {.channels = static_cast<int32_t>(mixed()),
                  .width = shape_.conv_width,
                  .x = in,
                  .weight = conv_.data(),
                  .bias = conv_bias_.data(),
                  .out = qkv,
                  .out_stride = mixed(),
                  .state = state.pool->base(tensor),
                  .state_stride = state.pool->stride(tensor)});
  } else {
    ParallelFor(batch.tokens, mixed(), [&](int64_t begin, int64_t end) {
      SiluMultiply(in, {}, static_cast<int32_t>(mixed()), qkv, begin, end);
    });
  }
  const float q_scale = 1.0f / std::sqrt(static_cast<float>(shape_.key_dim));
  ParallelFor(batch.tokens, 2 * keys(), [&](int64_t begin, int64_t end) {
    L2NormalizeHeads(qkv,
                     mixed(),
                     shape_.key_heads,
                     shape_.key_dim,
                     kLengthEps,
                     q_scale,
                     begin,
                     end);
    L2NormalizeHeads(qkv + keys(),
                     mixed(),
                     shape_.key_heads,
                     shape_.key_dim,
                     kLengthEps,
                     1.0f,
                     begin,
                     end);
  });
}

void GatedDeltaNet::Forward(const MixerInput& input,
                            float* workspace,
                            float* out) const {
  const Batch& batch = *input.batch;
  const LayerState state = input.state;
  const int64_t tokens = batch.tokens;
  const int64_t width = projection_.outputs();
  float* projected = workspace;
  float* qkv = projected + tokens * width;
  float* mixed_out = qkv + tokens * mixed();
  float* log2_decay = mixed_out + tokens * values();
  float* beta = log2_decay + tokens * shape_.heads;

  projection_.Forward(input.x, tokens, projected);
  Activate(batch, projected, state, qkv);
  const DeltaGateArgs gates = {
      .heads = shape_.heads,
      .a = {projected + a_column_, width},
      .b = {projected + b_column_, width},
      .a_log = a_log_.data(),
      .dt_bias = dt_bias_.data(),
      .beta_scale = shape_.negative_eigenvalues ? 2.0f : 1.0f,
      .log2_decay = log2_decay,
      .beta = beta};
  // A gate takes two transcendental functions, worth some dozen floats.
  ParallelFor(tokens, 32 * shape_.heads, [&](int64_t begin, int64_t end) {
    DeltaGates(gates, begin, end);
  });
  RunRecurrence(batch,
                {.heads = shape_.heads,
                 .key_heads = shape_.key_heads,
                 .key_dim = shape_.key_dim,
                 .value_dim = shape_.value_dim,
                 .q = {qkv, mixed()},
                 .k = {qkv + keys(), mixed()},
                 .v = {qkv + 2 * keys(), mixed()},
                 .log2_decay = {log2_decay, shape_.heads},
                 .beta = {beta, shape_.heads},
                 .out = mixed_out,
                 .out_stride = values(),
                 .state = state.pool->base(state.first),
                 .state_stride = state.pool->stride(state.first)});
  const GatedNormArgs norm = {.groups = shape_.heads,
                              .width = shape_.value_dim,
                              .x = {mixed_out, values()},
                              .z = {projected + gate_column_, width},
                              .weight = norm_.data(),
                              .shared_weight = true,
                              .eps = shape_.eps,
                              .gate = shape_.gate,
                              .order = GateOrder::kAfterNorm,
                              .out = mixed_out};
  ParallelFor(tokens, 2 * values(), [&](int64_t begin, int64_t end) {
    GatedNorm(norm, begin, end);
  });
  out_projection_.Forward(mixed_out, tokens, out);
}

void ReadGatedDeltaNet(ConfigFields& fields, DecoderSpec& spec) {
  ReadFlaSizes(fields, spec);
  GatedDeltaNetShape shape;
  shape.hidden = spec.hidden;
  shape.eps = spec.norm.eps;
  shape.key_heads = static_cast<int32_t>(fields.Int("num_heads", 1, kHeadsMax));
  shape.heads = static_cast<int32_t>(
      fields.Int("num_v_heads", 1, kHeadsMax, shape.key_heads));
  if (shape.heads % shape.key_heads != 0) {
    fields.Fail(
        "num_v_heads",
        absl::StrCat(
            shape.heads, " is no multiple of num_heads, ", shape.key_heads));
  }
  shape.key_dim = static_cast<int32_t>(fields.Int("head_dim", 1, kHeadDimMax));
  shape.value_dim = ScaledDim(fields, "expand_v", 2.0, shape.key_dim);
  const bool conv = fields.Bool("use_short_conv", true);
  const bool conv_bias = fields.Bool("conv_bias", false);
  const int64_t width =
      fields.Int("conv_size", kConvWidthMin, kConvWidthMax, 4);
  shape.conv_width = conv ? static_cast<int32_t>(width) : 0;
  shape.conv_bias = conv && conv_bias;
  const std::string gate = fields.OneOf(
      "output_gate_activation", {"swish", "silu", "sigmoid"}, "swish");
  shape.gate = gate == "sigmoid" ? GateKind::kSigmoid : GateKind::kSilu;
  if (!fields.Bool("use_gate", true)) shape.gate = GateKind::kNone;
  shape.negative_eigenvalues = fields.Bool("allow_neg_eigval", false);
  fields.OneOf(
      "attn_mode", {"chunk", "fused_chunk", "fused_recurrent"}, "chunk");
  ReadFlaLayers(fields, spec, [shape](int32_t) {
    return std::make_unique<GatedDeltaNet>(shape);
  });
}

}  // namespace weir::engine
