// SPDX-License-Identifier: Apache-2.0
#include "engine/device/gated_delta_part.h"

#include <cmath>
#include <numbers>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "base/status_macros.h"
#include "engine/kernels/cuda/card.h"
#include "engine/kernels/cuda/chunk.h"
#include "engine/kernels/cuda/gated_delta_decode.h"
#include "engine/kernels/cuda/gated_delta_prefill.h"
#include "engine/kernels/cuda/gated_delta_ring.h"

namespace weir::engine {
namespace {

constexpr int32_t kValueDimStep = 64;
constexpr int32_t kValueDimMax = 512;

// As the kernels are told of the heads.
GatedDeltaDecodeArgs HeadsOf(const QkvShape& shape) {
  return {.heads = shape.heads,
          .key_heads = shape.key_heads,
          .key_dim = shape.key_dim,
          .value_dim = shape.value_dim,
          .conv_width = shape.conv_width};
}

class GatedDeltaPart final : public DevicePart {
 public:
  struct Weights {
    DeviceMemory projection;  // [columns, hidden]
    DeviceMemory conv;        // [mixed, W]
    DeviceMemory conv_bias;   // [mixed], or nothing
    DeviceMemory log2_rate;   // [heads]
    DeviceMemory dt_bias;     // [heads]
    DeviceMemory norm;        // [V]
    DeviceMemory out;         // [hidden, heads V]
    DeviceMemory turns;       // of the ring form, [2]
  };

  GatedDeltaPart(const GatedDeltaNet& from,
                 StateForm form,
                 StateNumber number,
                 Weights weights)
      : shape_(from.shape()),
        form_(form),
        number_(number),
        mixed_(from.qkv().mixed()),
        columns_(static_cast<int32_t>(from.qkv().projection().outputs())),
        z_column_(from.gate_column()),
        a_column_(from.a_column()),
        b_column_(from.b_column()),
        weights_(std::move(weights)) {}

  std::vector<DeviceTensor> State(StateNumber number) const override {
    std::vector<DeviceTensor> state = {
        {"recurrent",
         {shape_.qkv.heads, shape_.qkv.value_dim, shape_.qkv.key_dim},
         number},
        {"conv", {shape_.qkv.conv_width, mixed_}, number_}};
    if (form_ == StateForm::kRing) {
      state.push_back({"ring",
                       {GatedDeltaRingNumbers(HeadsOf(shape_.qkv))},
                       StateNumber::kFloat32});
    }
    return state;
  }

  int64_t workspace_bytes(int64_t tokens) const override {
    return Place(nullptr, tokens).bytes;
  }

  absl::Status Forward(const DeviceInput& input) const override {
    const DeviceBatch& batch = *input.batch;
    const Arrays arrays = Place(input.workspace, batch.tokens);
    WEIR_RETURN_IF_ERROR(MultiplyNorm(input,
                                      {.number = number_,
                                       .tokens = batch.tokens,
                                       .inputs = shape_.qkv.hidden,
                                       .outputs = columns_,
                                       .weight = weights_.projection.data(),
                                       .y = arrays.projected,
                                       .y_stride = columns_}));
    if (batch.short_rows > 0) {
      WEIR_RETURN_IF_ERROR(CudaStatus(
          form_ == StateForm::kRing
              ? GatedDeltaRingDecode(RingArgsOf(input, arrays), input.stream)
              : GatedDeltaDecode(DecodeArgsOf(input, arrays), input.stream),
          "Gated DeltaNet's decode"));
    }
    if (batch.short_rows < batch.rows) {
      WEIR_RETURN_IF_ERROR(LongRows(input, arrays));
    }
    return AddProduct(input,
                      {.number = number_,
                       .tokens = batch.tokens,
                       .inputs = static_cast<int32_t>(values()),
                       .outputs = shape_.qkv.hidden,
                       .weight = weights_.out.data(),
                       .x = arrays.mixed_out,
                       .x_stride = values()});
  }

 private:
  struct Arrays {
    void* projected = nullptr;  // [tokens, columns]
    void* mixed_out = nullptr;  // [tokens, heads, V]
    // Of long rows, by the pass's tokens:
    void* qkv = nullptr;          // [tokens, mixed]
    float* log2_decay = nullptr;  // [tokens, heads]
    float* beta = nullptr;        // [tokens, heads]
    void* chunk = nullptr;
    int64_t bytes = 0;
  };

  int64_t values() const {
    return int64_t{shape_.qkv.heads} * shape_.qkv.value_dim;
  }
  int64_t keys() const {
    return int64_t{shape_.qkv.key_heads} * shape_.qkv.key_dim;
  }

  Arrays Place(void* base, int64_t tokens) const {
    const int64_t rows = PaddedTokens(tokens);
    const int64_t bytes = NumberBytes(number_);
    const int64_t gates =
        rows * shape_.qkv.heads * static_cast<int64_t>(sizeof(float));
    Workspace workspace(base);
    Arrays arrays;
    arrays.projected = workspace.Take(rows * columns_ * bytes);
    arrays.mixed_out = workspace.Take(rows * values() * bytes);
    if (tokens > kShortRowTokensMax) {
      arrays.qkv = workspace.Take(rows * mixed_ * bytes);
      arrays.log2_decay = static_cast<float*>(workspace.Take(gates));
      arrays.beta = static_cast<float*>(workspace.Take(gates));
      if (number_ == StateNumber::kBfloat16) {
        const auto long_rows =
            static_cast<int32_t>(tokens / kShortRowTokensMax + 1);
        arrays.chunk = workspace.Take(
            ChunkWorkspaceBytes(ChunkShape(long_rows, tokens, arrays)));
      }
    }
    arrays.bytes = workspace.bytes();
    return arrays;
  }

  GatedDeltaDecodeArgs DecodeArgsOf(const DeviceInput& input,
                                    const Arrays& arrays) const {
    const DeviceBatch& batch = *input.batch;
    return {.rows = batch.short_rows,
            .heads = shape_.qkv.heads,
            .key_heads = shape_.qkv.key_heads,
            .key_dim = shape_.qkv.key_dim,
            .value_dim = shape_.qkv.value_dim,
            .conv_width = shape_.qkv.conv_width,
            .row_tokens_max = batch.short_tokens_max,
            .row_starts = batch.row_starts,
            .slots = batch.slots,
            .consumed = batch.consumed,
            .number = number_,
            .projected = arrays.projected,
            .projected_stride = columns_,
            .z_column = z_column_,
            .a_column = a_column_,
            .b_column = b_column_,
            .conv_weight = weights_.conv.as<float>(),
            .conv_bias = weights_.conv_bias.as<float>(),
            .log2_rate = weights_.log2_rate.as<float>(),
            .dt_bias = weights_.dt_bias.as<float>(),
            .norm_weight = weights_.norm.as<float>(),
            .norm_eps = shape_.eps,
            .beta_scale = shape_.negative_eigenvalues ? 2.0F : 1.0F,
            .gate = shape_.gate,
            .out = arrays.mixed_out,
            .out_stride = values(),
            .state_number = input.state_number,
            .state = input.pool->base(input.state),
            .state_stride = input.pool->stride(input.state),
            .window = input.pool->base(input.state + 1),
            .window_stride = input.pool->stride(input.state + 1),
            .rounding_seed = static_cast<uint32_t>(input.state),
            // What is before is the product, which touches no state.
            .begins_early = batch.short_tokens_max == 1};
  }

  GatedDeltaRingArgs RingArgsOf(const DeviceInput& input,
                                const Arrays& arrays) const {
    return {.step = DecodeArgsOf(input, arrays),
            .ring = static_cast<float*>(input.pool->base(input.state + 2)),
            .ring_stride = input.pool->stride(input.state + 2),
            .turns = weights_.turns.as<uint32_t>()};
  }

  absl::Status FoldLongRows(const DeviceInput& input,
                            const Arrays& arrays) const;
  absl::Status LongRows(const DeviceInput& input, const Arrays& arrays) const;
  GatedDeltaPrepareArgs PrepareArgsOf(const DeviceInput& input,
                                      const Arrays& arrays) const;
  ChunkArgs ChunkShape(int32_t rows,
                       int64_t tokens,
                       const Arrays& arrays) const;
  cudaError_t Recur(const DeviceInput& input, const Arrays& arrays) const;

  const GatedDeltaNetShape shape_;
  const StateForm form_;
  const StateNumber number_;
  const int64_t mixed_;
  const int32_t columns_;
  const int64_t z_column_;
  const int64_t a_column_;
  const int64_t b_column_;
  const Weights weights_;
};

GatedDeltaPrepareArgs GatedDeltaPart::PrepareArgsOf(
    const DeviceInput& input, const Arrays& arrays) const {
  const DeviceBatch& batch = *input.batch;
  return {.rows = batch.rows - batch.short_rows,
          .tokens = batch.tokens,
          .heads = shape_.qkv.heads,
          .key_heads = shape_.qkv.key_heads,
          .key_dim = shape_.qkv.key_dim,
          .value_dim = shape_.qkv.value_dim,
          .conv_width = shape_.qkv.conv_width,
          .row_starts = batch.row_starts + batch.short_rows,
          .slots = batch.slots + batch.short_rows,
          .consumed = batch.consumed + batch.short_rows,
          .number = number_,
          .projected = arrays.projected,
          .projected_stride = columns_,
          .a_column = a_column_,
          .b_column = b_column_,
          .conv_weight = weights_.conv.as<float>(),
          .conv_bias = weights_.conv_bias.as<float>(),
          .log2_rate = weights_.log2_rate.as<float>(),
          .dt_bias = weights_.dt_bias.as<float>(),
          .beta_scale = shape_.negative_eigenvalues ? 2.0F : 1.0F,
          .window = input.pool->base(input.state + 1),
          .window_stride = input.pool->stride(input.state + 1),
          .mixed = arrays.qkv,
          .mixed_stride = mixed_,
          .log2_decay = arrays.log2_decay,
          .beta = arrays.beta};
}

ChunkArgs GatedDeltaPart::ChunkShape(int32_t rows,
                                     int64_t tokens,
                                     const Arrays& arrays) const {
  const auto* q = static_cast<const __nv_bfloat16*>(arrays.qkv);
  return {.rows = rows,
          .tokens = tokens,
          .heads = shape_.qkv.heads,
          .key_heads = shape_.qkv.key_heads,
          .key_dim = shape_.qkv.key_dim,
          .value_dim = shape_.qkv.value_dim,
          .q = {q, mixed_},
          .k = {q + keys(), mixed_},
          .v = {q + 2 * keys(), mixed_},
          .log2_decay = {arrays.log2_decay, shape_.qkv.heads},
          .beta = {arrays.beta, shape_.qkv.heads},
          .out = static_cast<__nv_bfloat16*>(arrays.mixed_out),
          .out_stride = values()};
}

cudaError_t GatedDeltaPart::Recur(const DeviceInput& input,
                                  const Arrays& arrays) const {
  const DeviceBatch& batch = *input.batch;
  const int32_t rows = batch.rows - batch.short_rows;
  const int32_t* const row_starts = batch.row_starts + batch.short_rows;
  const int32_t* const slots = batch.slots + batch.short_rows;
  const uint32_t* const consumed = batch.consumed + batch.short_rows;
  void* const state = input.pool->base(input.state);
  const auto rounding_seed = static_cast<uint32_t>(input.state);
  const int64_t state_stride = input.pool->stride(input.state);
  if (number_ == StateNumber::kBfloat16) {
    ChunkArgs args = ChunkShape(rows, batch.tokens, arrays);
    args.longest_row = batch.longest_row;
    args.row_starts = row_starts;
    args.slots = slots;
    args.consumed = consumed;
    args.state_number = input.state_number;
    args.state = state;
    args.state_stride = state_stride;
    args.rounding_seed = rounding_seed;
    args.workspace = arrays.chunk;
    return RecurrenceChunk(args, input.stream);
  }
  const auto* q = static_cast<const float*>(arrays.qkv);
  const RecurrenceArgs step = {
      .rows = rows,
      .heads = shape_.qkv.heads,
      .key_heads = shape_.qkv.key_heads,
      .key_dim = shape_.qkv.key_dim,
      .value_dim = shape_.qkv.value_dim,
      .row_starts = row_starts,
      .slots = slots,
      .q = {q, mixed_},
      .k = {q + keys(), mixed_},
      .v = {q + 2 * keys(), mixed_},
      .log2_decay = {arrays.log2_decay, shape_.qkv.heads},
      .beta = {arrays.beta, shape_.qkv.heads},
      .out = static_cast<float*>(arrays.mixed_out),
      .out_stride = values(),
      .state_stride = state_stride};
  return RecurrenceDecode({.step = step,
                           .number = input.state_number,
                           .state = state,
                           .consumed = consumed,
                           .rounding_seed = rounding_seed},
                          input.stream);
}

absl::Status GatedDeltaPart::FoldLongRows(const DeviceInput& input,
                                          const Arrays& arrays) const {
  const DeviceBatch& batch = *input.batch;
  GatedDeltaRingArgs args = RingArgsOf(input, arrays);
  args.step.rows = batch.rows - batch.short_rows;
  // Any number beyond one: row r is not token r.
  args.step.row_tokens_max = 2;
  args.step.row_starts += batch.short_rows;
  args.step.slots += batch.short_rows;
  args.step.consumed += batch.short_rows;
  return CudaStatus(FoldGatedDeltaRing(args, input.stream),
                    "Gated DeltaNet's rings");
}

absl::Status GatedDeltaPart::LongRows(const DeviceInput& input,
                                      const Arrays& arrays) const {
  const DeviceBatch& batch = *input.batch;
  if (form_ == StateForm::kRing) {
    WEIR_RETURN_IF_ERROR(FoldLongRows(input, arrays));
  }
  WEIR_RETURN_IF_ERROR(
      CudaStatus(PrepareGatedDelta(PrepareArgsOf(input, arrays), input.stream),
                 "Gated DeltaNet's convolution"));
  WEIR_RETURN_IF_ERROR(
      CudaStatus(Recur(input, arrays), "Gated DeltaNet's recurrence"));
  // The short rows, which stand first, are finished.
  const int64_t first = batch.short_tokens;
  auto* const out = static_cast<std::byte*>(arrays.mixed_out) +
                    first * values() * NumberBytes(number_);
  const auto* z = static_cast<const std::byte*>(arrays.projected) +
                  (first * columns_ + z_column_) * NumberBytes(number_);
  return CudaStatus(FinishGatedDelta({.tokens = batch.tokens - first,
                                      .heads = shape_.qkv.heads,
                                      .value_dim = shape_.qkv.value_dim,
                                      .number = number_,
                                      .o = out,
                                      .o_stride = values(),
                                      .z = z,
                                      .z_stride = columns_,
                                      .norm_weight = weights_.norm.as<float>(),
                                      .norm_eps = shape_.eps,
                                      .gate = shape_.gate,
                                      .out = out,
                                      .out_stride = values()},
                                     input.stream),
                    "Gated DeltaNet's norm");
}

absl::Status CheckShape(const QkvShape& shape) {
  const auto refuse = [](const char* what, int64_t value, const char* allowed) {
    return absl::UnimplementedError(
        absl::StrCat("on a GPU ", what, " must be ", allowed, ", not ", value));
  };
  if (shape.conv_width == 0) {
    return absl::UnimplementedError(
        "on a GPU Gated DeltaNet needs its convolution (use_short_conv)");
  }
  if (shape.key_dim != 64 && shape.key_dim != 128 && shape.key_dim != 256) {
    return refuse("head_dim", shape.key_dim, "64, 128 or 256");
  }
  if (shape.value_dim % kValueDimStep != 0 || shape.value_dim > kValueDimMax) {
    return refuse("head_dim times expand_v",
                  shape.value_dim,
                  "a multiple of 64, at most 512");
  }
  return absl::OkStatus();
}

// The taps of a channel together.
std::vector<float> TapsByChannel(const Buffer& conv, int32_t width) {
  const int64_t channels = conv.size() / width;
  std::vector<float> taps(static_cast<size_t>(conv.size()));
  for (int64_t c = 0; c < channels; ++c) {
    for (int64_t w = 0; w < width; ++w) {
      taps[c * width + w] = conv.data()[w * channels + c];
    }
  }
  return taps;
}

std::vector<float> Log2Rates(const Buffer& a_log) {
  std::vector<float> rates(static_cast<size_t>(a_log.size()));
  for (int64_t h = 0; h < a_log.size(); ++h) {
    rates[h] = static_cast<float>(-std::exp(double{a_log.data()[h]}) *
                                  std::numbers::log2e);
  }
  return rates;
}

}  // namespace

bool TakesGatedDelta(const GatedDeltaNet& from) {
  return ThisCard().has_copy_engine() && CheckShape(from.shape().qkv).ok();
}

absl::StatusOr<std::unique_ptr<DevicePart>> MakeGatedDeltaPart(
    const GatedDeltaNet& from, StateForm form, DeviceWeights& weights) {
  const QkvShape& shape = from.shape().qkv;
  WEIR_RETURN_IF_ERROR(CheckShape(shape));
  if (!ThisCard().has_copy_engine()) {
    return absl::UnimplementedError(
        "the ring form needs compute capability 9.0; --state-form write serves "
        "this card");
  }
  if (form == StateForm::kRing && !CanRingGatedDelta(HeadsOf(shape))) {
    return absl::UnimplementedError(
        "the ring form does not take this shape; --state-form write does");
  }
  GatedDeltaPart::Weights taken;
  WEIR_ASSIGN_OR_RETURN(taken.projection,
                        weights.Matrix(from.qkv().projection().weight()));
  WEIR_ASSIGN_OR_RETURN(
      taken.conv,
      weights.Floats(TapsByChannel(from.qkv().conv(), shape.conv_width)));
  WEIR_ASSIGN_OR_RETURN(taken.conv_bias,
                        weights.Floats(from.qkv().conv_bias()));
  WEIR_ASSIGN_OR_RETURN(taken.log2_rate,
                        weights.Floats(Log2Rates(from.a_log())));
  WEIR_ASSIGN_OR_RETURN(taken.dt_bias, weights.Floats(from.dt_bias()));
  WEIR_ASSIGN_OR_RETURN(taken.norm, weights.Floats(from.output().norm()));
  WEIR_ASSIGN_OR_RETURN(taken.out,
                        weights.Matrix(from.output().projection().weight()));
  if (form == StateForm::kRing) {
    WEIR_ASSIGN_OR_RETURN(
        taken.turns,
        DeviceMemory::Take(2 * sizeof(uint32_t), "the ring form's turns"));
  }
  return std::make_unique<GatedDeltaPart>(
      from, form, weights.number(), std::move(taken));
}

}  // namespace weir::engine
