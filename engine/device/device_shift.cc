// SPDX-License-Identifier: Apache-2.0
#include "engine/device/device_shift.h"

#include <utility>

#include "base/status_macros.h"
#include "engine/device/mixer_front.h"
#include "engine/kernels/cuda/layer_rows.h"

namespace weir::engine {
namespace {

// The library's products expect each of their arrays at 256 bytes.
constexpr int64_t kPitchStep = 128;

}  // namespace

absl::StatusOr<DeviceShift> DeviceShift::Take(const TokenShift& from,
                                              DeviceWeights& weights) {
  DeviceShift shift;
  shift.number_ = weights.number();
  shift.channels_ = from.channels();
  shift.count_ = static_cast<int32_t>(from.mixes().size() / from.channels());
  WEIR_ASSIGN_OR_RETURN(shift.mixes_, weights.Floats(from.mixes()));
  return shift;
}

DeviceTensor DeviceShift::State(std::string name) const {
  return {std::move(name), {channels_}, StateNumber::kFloat32};
}

DeviceShift::Arrays DeviceShift::Place(Workspace& workspace,
                                       int64_t padded_tokens) const {
  const int64_t numbers = padded_tokens * channels_;
  Arrays arrays;
  arrays.x = static_cast<float*>(
      workspace.Take(numbers * static_cast<int64_t>(sizeof(float))));
  arrays.pitch = (numbers + kPitchStep - 1) / kPitchStep * kPitchStep;
  arrays.mixed = workspace.Take(count_ * arrays.pitch * NumberBytes(number_));
  return arrays;
}

const void* DeviceShift::Mixed(const Arrays& arrays, int32_t index) const {
  return static_cast<const std::byte*>(arrays.mixed) +
         index * arrays.pitch * NumberBytes(number_);
}

ShiftedRows DeviceShift::RowsOf(const DeviceInput& input,
                                const Arrays& arrays,
                                size_t tensor) const {
  return {.of = RaggedOf(*input.batch),
          .channels = channels_,
          .x = arrays.x,
          .state = static_cast<float*>(input.pool->base(tensor)),
          .state_stride = input.pool->stride(tensor)};
}

absl::Status DeviceShift::Norm(const DeviceInput& input,
                               const Arrays& arrays) const {
  return CudaStatus(NormRows(input.norm,
                             input.residual,
                             input.batch->tokens,
                             StateNumber::kFloat32,
                             arrays.x,
                             input.stream),
                    "a norm");
}

absl::Status DeviceShift::Mix(const DeviceInput& input,
                              const Arrays& arrays,
                              size_t tensor,
                              int32_t first,
                              int32_t count,
                              const float* add) const {
  auto* mixed = static_cast<std::byte*>(arrays.mixed);
  return CudaStatus(
      MixShiftedRows(
          RowsOf(input, arrays, tensor),
          {.count = count,
           .mix = mixes_.as<float>() + int64_t{first} * channels_,
           .add = add,
           .number = number_,
           .out = mixed + first * arrays.pitch * NumberBytes(number_),
           .pitch = arrays.pitch},
          input.stream),
      "a token shift");
}

absl::Status DeviceShift::Keep(const DeviceInput& input,
                               const Arrays& arrays,
                               size_t tensor) const {
  return CudaStatus(KeepLastRows(RowsOf(input, arrays, tensor), input.stream),
                    "a token shift's state");
}

absl::Status DeviceShift::Forward(const DeviceInput& input,
                                  const Arrays& arrays,
                                  size_t tensor) const {
  WEIR_RETURN_IF_ERROR(Norm(input, arrays));
  WEIR_RETURN_IF_ERROR(Mix(input, arrays, tensor, 0, count_, nullptr));
  return Keep(input, arrays, tensor);
}

}  // namespace weir::engine
