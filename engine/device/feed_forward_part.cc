// SPDX-License-Identifier: Apache-2.0
#include "engine/device/feed_forward_part.h"

#include <utility>

#include "absl/strings/str_cat.h"
#include "base/status_macros.h"
#include "engine/kernels/cuda/layer_rows.h"

namespace weir::engine {
namespace {

constexpr int64_t kWidthStep = 8;

class FeedForwardPart final : public DevicePart {
 public:
  FeedForwardPart(const SwiGlu& from,
                  StateNumber number,
                  DeviceMemory gate_up,
                  DeviceMemory down)
      : hidden_(static_cast<int32_t>(from.gate_up().inputs())),
        width_(static_cast<int32_t>(from.intermediate())),
        number_(number),
        gate_up_(std::move(gate_up)),
        down_(std::move(down)) {}

  int64_t workspace_bytes(int64_t tokens) const override {
    return Place(nullptr, tokens).bytes;
  }

  absl::Status Forward(const DeviceInput& input) const override {
    const int64_t tokens = input.batch->tokens;
    const Arrays arrays = Place(input.workspace, tokens);
    const ProductArgs gate_up = {.number = number_,
                                 .tokens = tokens,
                                 .inputs = hidden_,
                                 .outputs = 2 * width_,
                                 .weight = gate_up_.data(),
                                 .y = arrays.gate_up,
                                 .y_stride = int64_t{2} * width_};
    if (IsSmallProduct(gate_up)) {
      ProductArgs gated = gate_up;
      gated.target = ProductTarget::kSilu;
      gated.y = arrays.product;
      gated.y_stride = width_;
      WEIR_RETURN_IF_ERROR(MultiplyNorm(input, gated));
    } else {
      WEIR_RETURN_IF_ERROR(MultiplyNorm(input, gate_up));
      WEIR_RETURN_IF_ERROR(CudaStatus(SiluMultiplyRows(arrays.gate_up,
                                                       tokens,
                                                       width_,
                                                       number_,
                                                       arrays.product,
                                                       input.stream),
                                      "the feed-forward gate"));
    }
    return AddProduct(input,
                      {.number = number_,
                       .tokens = tokens,
                       .inputs = width_,
                       .outputs = hidden_,
                       .weight = down_.data(),
                       .x = arrays.product,
                       .x_stride = width_});
  }

 private:
  struct Arrays {
    void* gate_up = nullptr;  // [tokens, 2 width]
    void* product = nullptr;  // [tokens, width]
    int64_t bytes = 0;
  };
  Arrays Place(void* base, int64_t tokens) const {
    const int64_t numbers = PaddedTokens(tokens) * width_;
    Workspace workspace(base);
    Arrays arrays;
    arrays.gate_up = workspace.Take(2 * numbers * NumberBytes(number_));
    arrays.product = workspace.Take(numbers * NumberBytes(number_));
    arrays.bytes = workspace.bytes();
    return arrays;
  }

  const int32_t hidden_;
  const int32_t width_;
  const StateNumber number_;
  const DeviceMemory gate_up_;  // [2 width, hidden]
  const DeviceMemory down_;     // [hidden, width]
};

}  // namespace

absl::StatusOr<std::unique_ptr<DevicePart>> MakeFeedForwardPart(
    const SwiGlu& from, DeviceWeights& weights) {
  if (from.intermediate() % kWidthStep != 0 ||
      from.gate_up().inputs() % kWidthStep != 0) {
    return absl::UnimplementedError(
        absl::StrCat("on a GPU the intermediate size, ",
                     from.intermediate(),
                     ", and the hidden size, ",
                     from.gate_up().inputs(),
                     ", must be multiples of ",
                     kWidthStep));
  }
  WEIR_ASSIGN_OR_RETURN(DeviceMemory gate_up,
                        weights.Matrix(from.gate_up().weight()));
  WEIR_ASSIGN_OR_RETURN(DeviceMemory down,
                        weights.Matrix(from.down().weight()));
  return std::make_unique<FeedForwardPart>(
      from, weights.number(), std::move(gate_up), std::move(down));
}

}  // namespace weir::engine
