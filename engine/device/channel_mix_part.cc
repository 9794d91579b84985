// SPDX-License-Identifier: Apache-2.0
#include "engine/device/channel_mix_part.h"

#include <utility>
#include <vector>

#include "base/status_macros.h"
#include "engine/device/device_linear.h"
#include "engine/device/device_shift.h"
#include "engine/kernels/cuda/mixer_rows.h"
#include "engine/kernels/cuda/rwkv_rows.h"

namespace weir::engine {
namespace {

class ChannelMixPart final : public DevicePart {
 public:
  struct Weights {
    DeviceShift shift;
    DeviceLinear key;
    DeviceLinear value;
    DeviceLinear receptance;  // nothing without a gate
  };

  ChannelMixPart(StateNumber number, Weights weights)
      : number_(number), weights_(std::move(weights)) {}

  std::vector<DeviceTensor> State(StateNumber number) const override {
    static_cast<void>(number);
    return {weights_.shift.State("channel_shift")};
  }

  int64_t workspace_bytes(int64_t tokens) const override {
    return Place(nullptr, tokens).bytes;
  }

  absl::Status Forward(const DeviceInput& input) const override {
    const Arrays arrays = Place(input.workspace, input.batch->tokens);
    const DeviceShift& shift = weights_.shift;
    const int64_t tokens = input.batch->tokens;
    WEIR_RETURN_IF_ERROR(shift.Forward(input, arrays.shift, input.state));
    WEIR_RETURN_IF_ERROR(
        weights_.key.OfRows(input,
                            shift.Mixed(arrays.shift, ChannelMix::kKeyMix),
                            tokens,
                            arrays.inner));
    WEIR_RETURN_IF_ERROR(
        CudaStatus(RoundRows({arrays.inner, weights_.key.outputs()},
                             tokens,
                             weights_.key.outputs(),
                             Activation::kSquaredRelu,
                             number_,
                             arrays.rounded,
                             input.stream),
                   "the feed-forward activation"));
    if (!gated()) return weights_.value.AddToResidual(input, arrays.rounded);
    return AddGated(input, arrays);
  }

 private:
  struct Arrays {
    DeviceShift::Arrays shift;
    float* inner = nullptr;       // [tokens, intermediate]
    void* rounded = nullptr;      // likewise, of the products' number
    float* out = nullptr;         // [tokens, hidden]
    float* receptance = nullptr;  // [tokens, hidden]
    int64_t bytes = 0;
  };

  bool gated() const { return weights_.receptance.outputs() > 0; }

  Arrays Place(void* base, int64_t tokens) const {
    const int64_t rows = PaddedTokens(tokens);
    Workspace workspace(base);
    const auto take = [&](int64_t floats) {
      return static_cast<float*>(
          workspace.Take(rows * floats * static_cast<int64_t>(sizeof(float))));
    };
    Arrays arrays;
    arrays.shift = weights_.shift.Place(workspace, rows);
    arrays.inner = take(weights_.key.outputs());
    arrays.rounded =
        workspace.Take(rows * weights_.key.outputs() * NumberBytes(number_));
    if (gated()) {
      arrays.out = take(weights_.value.outputs());
      arrays.receptance = take(weights_.receptance.outputs());
    }
    arrays.bytes = workspace.bytes();
    return arrays;
  }

  absl::Status AddGated(const DeviceInput& input, const Arrays& arrays) const {
    const int64_t tokens = input.batch->tokens;
    WEIR_RETURN_IF_ERROR(
        weights_.value.OfRows(input, arrays.rounded, tokens, arrays.out));
    WEIR_RETURN_IF_ERROR(weights_.receptance.OfRows(
        input,
        weights_.shift.Mixed(arrays.shift, ChannelMix::kReceptanceMix),
        tokens,
        arrays.receptance));
    return CudaStatus(AddGatedNumbers(arrays.receptance,
                                      arrays.out,
                                      tokens * weights_.value.outputs(),
                                      input.residual,
                                      input.stream),
                      "the feed-forward gate");
  }

  const StateNumber number_;
  const Weights weights_;
};

}  // namespace

absl::StatusOr<std::unique_ptr<DevicePart>> MakeChannelMixPart(
    const ChannelMix& from, DeviceWeights& weights) {
  ChannelMixPart::Weights taken;
  WEIR_ASSIGN_OR_RETURN(taken.shift, DeviceShift::Take(from.shift(), weights));
  WEIR_ASSIGN_OR_RETURN(
      taken.key, DeviceLinear::Take(from.key(), "the hidden size", weights));
  WEIR_ASSIGN_OR_RETURN(
      taken.value,
      DeviceLinear::Take(from.value(), "the intermediate size", weights));
  if (from.gated()) {
    WEIR_ASSIGN_OR_RETURN(
        taken.receptance,
        DeviceLinear::Take(from.receptance(), "the hidden size", weights));
  }
  return std::make_unique<ChannelMixPart>(weights.number(), std::move(taken));
}

}  // namespace weir::engine
