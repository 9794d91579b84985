// SPDX-License-Identifier: Apache-2.0
//
// Linear on a GPU: y = x W^T + bias, with fp32 sums and x of the numbers that
// products are made of.
//
// Threads: as device_part.h.
#pragma once

#include <cstdint>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "engine/device/device_memory.h"
#include "engine/device/device_part.h"
#include "engine/device/device_weights.h"
#include "engine/kernels/activation.h"
#include "engine/mixers/linear.h"

namespace weir::engine {

class DeviceLinear {
 public:
  DeviceLinear() = default;
  // UNIMPLEMENTED for a width that no product takes, which is that of `what`;
  // RESOURCE_EXHAUSTED, INTERNAL.
  static absl::StatusOr<DeviceLinear> Take(const Linear& from,
                                           const char* what,
                                           DeviceWeights& weights);

  int32_t inputs() const { return inputs_; }
  int32_t outputs() const { return outputs_; }

  // y [padded tokens, outputs], contiguous, of the part's norm.
  absl::Status OfNorm(const DeviceInput& input, float* y) const;
  // Of x [padded tokens, inputs] of the products' numbers, contiguous.
  absl::Status OfRows(const DeviceInput& input,
                      const void* x,
                      int64_t tokens,
                      float* y) const;
  // Of f(x), x [T][inputs] of fp32; `rounded` has room for the padded tokens.
  absl::Status OfFloats(const DeviceInput& input,
                        TokenRows x,
                        Activation f,
                        void* rounded,
                        float* y) const;
  // residual += product of x, likewise.
  absl::Status AddToResidual(const DeviceInput& input, const void* x) const;

 private:
  absl::Status AddBias(const DeviceInput& input,
                       int64_t tokens,
                       float* y) const;

  StateNumber number_ = StateNumber::kFloat32;
  int32_t inputs_ = 0;
  int32_t outputs_ = 0;
  DeviceMemory weight_;
  DeviceMemory bias_;  // nothing without one
};

}  // namespace weir::engine
