// SPDX-License-Identifier: Apache-2.0
#include "engine/mixers/mlstm.h"

#include <cmath>
#include <memory>

#include "absl/strings/str_cat.h"
#include "engine/kernels/mlstm.h"
#include "engine/kernels/pointwise.h"
#include "engine/mixers/feed_forward.h"
#include "engine/mixers/parallel.h"

namespace weir::engine {

Mlstm::Mlstm(const MlstmShape& shape)
    : shape_(shape),
      projection_(shape.hidden, 2 * keys() + 2 * values(), false),
      gates_(shape.hidden, int64_t{2} * shape.heads, true),
      out_projection_(values(), shape.hidden, false),
      norm_(values()) {}

std::vector<WeightSlot> Mlstm::Weights() {
  const int64_t heads = shape_.heads;
  std::vector<WeightSlot> slots = {
      out_projection_.Rows("out_proj.weight", 0, shape_.hidden),
      {.name = "multihead_norm.weight", .shape = {values()}, .buffer = &norm_}};
  if (shape_.fused) {
    slots.push_back(
        projection_.Rows("qkv_opreact.weight", 0, projection_.outputs()));
    slots.push_back(gates_.Rows("ifgate_preact.weight", 0, 2 * heads));
    slots.push_back(gates_.Bias("ifgate_preact.bias", 0, 2 * heads));
    return slots;
  }
  const int64_t v = 2 * keys();
  slots.push_back(projection_.Rows("q.weight", 0, keys()));
  slots.push_back(projection_.Rows("k.weight", keys(), keys()));
  slots.push_back(projection_.Rows("v.weight", v, values()));
  slots.push_back(
      projection_.Rows("ogate_preact.weight", v + values(), values()));
  slots.push_back(gates_.Rows("igate_preact.weight", 0, heads));
  slots.push_back(gates_.Bias("igate_preact.bias", 0, heads));
  slots.push_back(gates_.Rows("fgate_preact.weight", heads, heads));
  slots.push_back(gates_.Bias("fgate_preact.bias", heads, heads));
  return slots;
}

std::vector<StateTensor> Mlstm::State() const {
  // C with n as its last value; and m, which transformers starts at zero too.
  return {
      {.name = "recurrent",
       .shape = {shape_.heads, shape_.value_dim + 1, shape_.key_dim}},
      {.name = "maximum", .shape = {shape_.heads}},
  };
}

int64_t Mlstm::workspace_floats() const {
  const int64_t extended = values() + shape_.heads;
  return projection_.outputs() + int64_t{5} * shape_.heads + 2 * extended;
}

void Mlstm::Gate(const MixerInput& input, const Parts& parts) const {
  const Batch& batch = *input.batch;
  const int64_t heads = shape_.heads;
  StatePool* pool = input.state.pool;
  const size_t maximum = input.state.first + 1;
  const MlstmGateArgs args = {.rows = batch.rows,
                              .heads = shape_.heads,
                              .row_starts = batch.row_starts,
                              .slots = batch.slots,
                              .input = {parts.gates, 2 * heads},
                              .forget = {parts.gates + heads, 2 * heads},
                              .cap = shape_.gate_cap,
                              .log2_decay = parts.log2_decay,
                              .write = parts.write,
                              .floor = parts.floor,
                              .state = pool->base(maximum),
                              .state_stride = pool->stride(maximum)};
  if (batch.form == Form::kReference) {
    MlstmGatesReference(args);
    return;
  }
  // Five exponentials in fp64 for each gate.
  ParallelFor(
      batch.rows * heads,
      500 * (batch.tokens / batch.rows),
      [&](int64_t begin, int64_t end) { MlstmGates(args, begin, end); });
}

void Mlstm::Recur(const MixerInput& input, const Parts& parts) const {
  const Batch& batch = *input.batch;
  const int64_t width = projection_.outputs();
  const int64_t extended = values() + shape_.heads;
  StatePool* pool = input.state.pool;
  const MlstmValueArgs weighted = {.heads = shape_.heads,
                                   .value_dim = shape_.value_dim,
                                   .v = {parts.projected + 2 * keys(), width},
                                   .write = parts.write,
                                   .out = parts.values};
  ParallelFor(batch.tokens, 2 * values(), [&](int64_t begin, int64_t end) {
    MlstmValues(weighted, begin, end);
  });
  RunRecurrence(batch,
                {.heads = shape_.heads,
                 .key_heads = shape_.heads,
                 .key_dim = shape_.key_dim,
                 .value_dim = shape_.value_dim + 1,
                 .q = {parts.projected, width},
                 .k = {parts.projected + keys(), width},
                 .v = {parts.values, extended},
                 .log2_decay = {parts.log2_decay, shape_.heads},
                 .out = parts.sums,
                 .out_stride = extended,
                 .state = pool->base(input.state.first),
                 .state_stride = pool->stride(input.state.first)});
  const MlstmReadArgs read = {
      .heads = shape_.heads,
      .value_dim = shape_.value_dim,
      .x = parts.sums,
      .floor = parts.floor,
      .scale = 1.0F / std::sqrt(static_cast<float>(shape_.key_dim)),
      .eps = shape_.eps,
      .out = parts.values};
  ParallelFor(batch.tokens, 2 * values(), [&](int64_t begin, int64_t end) {
    MlstmRead(read, begin, end);
  });
}

void Mlstm::Forward(const MixerInput& input,
                    float* workspace,
                    float* out) const {
  const int64_t tokens = input.batch->tokens;
  const int64_t heads = shape_.heads;
  const int64_t width = projection_.outputs();
  Parts parts;
  parts.projected = workspace;
  parts.values = parts.projected + tokens * width;
  parts.sums = parts.values + tokens * (values() + heads);
  parts.gates = parts.sums + tokens * (values() + heads);
  parts.log2_decay = parts.gates + tokens * 2 * heads;
  parts.write = parts.log2_decay + tokens * heads;
  parts.floor = parts.write + tokens * heads;

  projection_.Forward(input.x, tokens, parts.projected);
  gates_.Forward(input.x, tokens, parts.gates);
  Gate(input, parts);
  Recur(input, parts);
  const GatedNormArgs norm = {
      .groups = shape_.heads,
      .width = shape_.value_dim,
      .x = {parts.values, values()},
      .z = {parts.projected + 2 * keys() + values(), width},
      .weight = norm_.data(),
      .shared_weight = false,
      .eps = shape_.norm_eps,
      .centered = true,
      .gate = GateKind::kSigmoid,
      .order = GateOrder::kAfterNorm,
      .out = parts.values};
  ParallelFor(tokens, 4 * values(), [&](int64_t begin, int64_t end) {
    GatedNorm(norm, begin, end);
  });
  out_projection_.Forward(parts.values, tokens, out);
}

namespace {

// The part of one head in `factor` times hidden_size, cut to a whole number as
// transformers cuts it.
int32_t ReadHeadDim(ConfigFields& fields,
                    const char* key,
                    double otherwise,
                    const MlstmShape& shape) {
  const auto width =
      static_cast<int64_t>(shape.hidden * fields.Number(key, 0, 64, otherwise));
  const int64_t dim = width / shape.heads;
  if (width % shape.heads != 0 || dim < 1 || dim > kHeadDimMax) {
    fields.Fail(key,
                absl::StrCat("makes a width of ",
                             width,
                             ", which are not ",
                             shape.heads,
                             " heads of 1 to ",
                             kHeadDimMax));
    return 1;
  }
  return static_cast<int32_t>(dim);
}

int64_t ReadIntermediate(ConfigFields& fields, int32_t hidden) {
  const double open = hidden * fields.Number("ffn_proj_factor", 0, 64, 2.667);
  const int64_t multiple =
      fields.Int("ffn_round_up_to_multiple_of", 1, kIntermediateMax, 64);
  const auto steps = static_cast<int64_t>(
      std::floor((open + static_cast<double>(multiple - 1)) /
                 static_cast<double>(multiple)));
  const int64_t width = steps * multiple;
  if (width < 1 || width > kIntermediateMax) {
    fields.Fail("ffn_proj_factor", "makes a width that is out of range");
    return 1;
  }
  return width;
}

MlstmShape ReadShape(ConfigFields& fields, int32_t hidden) {
  MlstmShape shape;
  shape.hidden = hidden;
  shape.heads = static_cast<int32_t>(fields.Int("num_heads", 1, kHeadsMax));
  shape.key_dim = ReadHeadDim(fields, "qk_dim_factor", 0.5, shape);
  shape.value_dim = ReadHeadDim(fields, "v_dim_factor", 1.0, shape);
  shape.fused =
      fields.OneOf("weight_mode", {"single", "fused"}, "single") == "fused";
  shape.gate_cap =
      static_cast<float>(fields.Number("gate_soft_cap", 0, 80, 15.0));
  shape.eps = static_cast<float>(fields.Number("eps", kEpsMin, 1, 1e-6));
  shape.norm_eps =
      static_cast<float>(fields.Number("norm_eps", kEpsMin, 1, 1e-6));
  return shape;
}

// transformers has two names for two sizes, either of which may be missing.
void ReadSizes(ConfigFields& fields, DecoderSpec& spec) {
  const auto other = [&fields](const char* one, const char* two) {
    return fields.Has(one) ? one : two;
  };
  ReadDecoderSizes(fields,
                   spec,
                   other("hidden_size", "embedding_dim"),
                   other("num_hidden_layers", "num_blocks"));
  if (fields.Int("embedding_dim", 1, kHiddenMax, spec.hidden) != spec.hidden) {
    fields.Fail("embedding_dim", "is not hidden_size");
  }
  if (fields.Int("num_blocks", 1, kLayersMax, spec.layers) != spec.layers) {
    fields.Fail("num_blocks", "is not num_hidden_layers");
  }
}

}  // namespace

void ReadXlstm(ConfigFields& fields, DecoderSpec& spec) {
  ReadSizes(fields, spec);
  const MlstmShape shape = ReadShape(fields, spec.hidden);
  const int64_t intermediate = ReadIntermediate(fields, spec.hidden);
  spec.norm.eps = shape.norm_eps;
  spec.logit_cap =
      static_cast<float>(fields.Number("output_logit_soft_cap", 0, 1e6, 30.0));
  if (fields.Bool("use_bias", false)) {
    fields.Fail("use_bias", "biases beside the gates' are not served");
  }
  if (!fields.Bool("add_out_norm", true)) {
    fields.Fail("add_out_norm", "a model without its last norm is not served");
  }
  // Which of several equal algorithms is taken, in which pieces and types:
  // here all is fp32.
  fields.Ignore({"autocast_kernel_dtype",
                 "chunk_size",
                 "chunkwise_kernel",
                 "inference_state_dtype",
                 "max_inference_chunksize",
                 "mode",
                 "norm_reduction_force_float32",
                 "return_last_states",
                 "sequence_kernel",
                 "step_kernel"});
  spec.names = {.embedding = "backbone.embeddings.weight",
                .layers = "backbone.blocks.",
                .final_norm = "backbone.out_norm"};
  SwiGlu::Names names = {"proj_up_gate", "proj_up", "proj_down"};
  if (shape.fused) names = {"proj_up_gate_z", "", "proj_down"};
  spec.make_layer = [shape, intermediate, names](int32_t) {
    std::vector<Sublayer> parts;
    parts.push_back({.norm = "norm_mlstm",
                     .prefix = "mlstm_layer.",
                     .part = std::make_unique<Mlstm>(shape)});
    parts.push_back(
        {.norm = "norm_ffn",
         .prefix = "ffn.",
         .part = std::make_unique<SwiGlu>(shape.hidden, intermediate, names)});
    return parts;
  };
}

}  // namespace weir::engine
