// SPDX-License-Identifier: Apache-2.0
#include "engine/device/device_linear.h"

#include "absl/strings/str_cat.h"
#include "base/status_macros.h"
#include "engine/kernels/cuda/mixer_rows.h"

namespace weir::engine {
namespace {

// Rows of 16 bytes, in bf16.
constexpr int64_t kInputStep = 8;

}  // namespace

absl::StatusOr<DeviceLinear> DeviceLinear::Take(const Linear& from,
                                                const char* what,
                                                DeviceWeights& weights) {
  if (from.inputs() % kInputStep != 0) {
    return absl::UnimplementedError(absl::StrCat("on a GPU ",
                                                 what,
                                                 ", ",
                                                 from.inputs(),
                                                 ", must be a multiple of ",
                                                 kInputStep));
  }
  DeviceLinear linear;
  linear.number_ = weights.number();
  linear.inputs_ = static_cast<int32_t>(from.inputs());
  linear.outputs_ = static_cast<int32_t>(from.outputs());
  WEIR_ASSIGN_OR_RETURN(linear.weight_, weights.Matrix(from.weight()));
  WEIR_ASSIGN_OR_RETURN(linear.bias_, weights.Floats(from.bias()));
  return linear;
}

absl::Status DeviceLinear::AddBias(const DeviceInput& input,
                                   int64_t tokens,
                                   float* y) const {
  if (bias_.data() == nullptr) return absl::OkStatus();
  return CudaStatus(
      AddBiasRows(
          y, outputs_, tokens, outputs_, bias_.as<float>(), input.stream),
      "a bias");
}

absl::Status DeviceLinear::OfNorm(const DeviceInput& input, float* y) const {
  const int64_t tokens = input.batch->tokens;
  WEIR_RETURN_IF_ERROR(MultiplyNorm(input,
                                    {.number = number_,
                                     .tokens = tokens,
                                     .inputs = inputs_,
                                     .outputs = outputs_,
                                     .weight = weight_.data(),
                                     .target = ProductTarget::kFloat,
                                     .y = y,
                                     .y_stride = outputs_}));
  return AddBias(input, tokens, y);
}

absl::Status DeviceLinear::OfRows(const DeviceInput& input,
                                  const void* x,
                                  int64_t tokens,
                                  float* y) const {
  WEIR_RETURN_IF_ERROR(
      input.products->Multiply({.number = number_,
                                .tokens = tokens,
                                .inputs = inputs_,
                                .outputs = outputs_,
                                .weight = weight_.data(),
                                .x = x,
                                .x_stride = inputs_,
                                .target = ProductTarget::kFloat,
                                .y = y,
                                .y_stride = outputs_},
                               input.stream));
  return AddBias(input, tokens, y);
}

absl::Status DeviceLinear::OfFloats(const DeviceInput& input,
                                    TokenRows x,
                                    Activation f,
                                    void* rounded,
                                    float* y) const {
  const int64_t tokens = input.batch->tokens;
  WEIR_RETURN_IF_ERROR(CudaStatus(
      RoundRows(x, tokens, inputs_, f, number_, rounded, input.stream),
      "a product's input"));
  return OfRows(input, rounded, tokens, y);
}

absl::Status DeviceLinear::AddToResidual(const DeviceInput& input,
                                         const void* x) const {
  WEIR_RETURN_IF_ERROR(AddProduct(input,
                                  {.number = number_,
                                   .tokens = input.batch->tokens,
                                   .inputs = inputs_,
                                   .outputs = outputs_,
                                   .weight = weight_.data(),
                                   .x = x,
                                   .x_stride = inputs_}));
  return AddBias(input, input.batch->tokens, input.residual);
}

}  // namespace weir::engine
