// SPDX-License-Identifier: Apache-2.0
//
// LowRank on a GPU: up(f(down x)) + bias.
//
// Threads: as device_part.h.
#pragma once

#include <cstdint>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "engine/device/device_linear.h"
#include "engine/mixers/low_rank.h"

namespace weir::engine {

class DeviceLowRank {
 public:
  // Room for one at a time.
  struct Arrays {
    float* middle = nullptr;  // [tokens, rank]
    void* rounded = nullptr;  // likewise, of the products' numbers
  };

  DeviceLowRank() = default;
  // UNIMPLEMENTED for a rank that no product takes, which is that of `what`;
  // RESOURCE_EXHAUSTED, INTERNAL.
  static absl::StatusOr<DeviceLowRank> Take(const LowRank& from,
                                            const char* what,
                                            DeviceWeights& weights);

  int32_t rank() const { return up_.inputs(); }

  // y [padded tokens, outputs], contiguous, of x [padded tokens, inputs] of the
  // products' numbers.
  absl::Status OfRows(const DeviceInput& input,
                      const void* x,
                      const Arrays& arrays,
                      float* y) const;

 private:
  Activation activation_ = Activation::kNone;
  DeviceLinear down_;
  DeviceLinear up_;
};

}  // namespace weir::engine
