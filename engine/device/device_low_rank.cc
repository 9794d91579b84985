// SPDX-License-Identifier: Apache-2.0
#include "engine/device/device_low_rank.h"

#include "base/status_macros.h"

namespace weir::engine {

absl::StatusOr<DeviceLowRank> DeviceLowRank::Take(const LowRank& from,
                                                  const char* what,
                                                  DeviceWeights& weights) {
  DeviceLowRank linear;
  linear.activation_ = from.activation();
  WEIR_ASSIGN_OR_RETURN(
      linear.down_,
      DeviceLinear::Take(from.down(), "the hidden size", weights));
  WEIR_ASSIGN_OR_RETURN(linear.up_,
                        DeviceLinear::Take(from.up(), what, weights));
  return linear;
}

absl::Status DeviceLowRank::OfRows(const DeviceInput& input,
                                   const void* x,
                                   const Arrays& arrays,
                                   float* y) const {
  WEIR_RETURN_IF_ERROR(
      down_.OfRows(input, x, input.batch->tokens, arrays.middle));
  return up_.OfFloats(
      input, {arrays.middle, rank()}, activation_, arrays.rounded, y);
}

}  // namespace weir::engine
