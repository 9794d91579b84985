// SPDX-License-Identifier: Apache-2.0
//
// Takes a model's weights from host memory to a GPU: matrices as the numbers
// that products are made of, what norms and gates take as fp32.
//
// Threads: one; each call waits for its copies.
#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>
#include <span>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "engine/device/device_memory.h"
#include "engine/kernels/cuda/decode.h"
#include "engine/mixers/buffer.h"

namespace weir::engine {

class DeviceWeights {
 public:
  // RESOURCE_EXHAUSTED.
  static absl::StatusOr<DeviceWeights> Create(StateNumber number);

  StateNumber number() const { return number_; }

  // The buffer's numbers as `number`, rounded to nearest. RESOURCE_EXHAUSTED,
  // INTERNAL.
  absl::StatusOr<DeviceMemory> Matrix(const Buffer& from);
  // As fp32; nothing for an empty buffer.
  absl::StatusOr<DeviceMemory> Floats(const Buffer& from);
  absl::StatusOr<DeviceMemory> Floats(std::span<const float> from);
  absl::StatusOr<DeviceMemory> Doubles(std::span<const double> from);

 private:
  explicit DeviceWeights(StateNumber number) : number_(number) {}

  StateNumber number_;
  PinnedMemory staging_;
};

}  // namespace weir::engine
