// SPDX-License-Identifier: Apache-2.0
//
// TokenShift on a GPU: the part's norm, and of its rows what each product of
// the part takes.
//
// Threads: as device_part.h.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "engine/device/device_memory.h"
#include "engine/device/device_part.h"
#include "engine/device/device_weights.h"
#include "engine/kernels/cuda/token_shift.h"
#include "engine/mixers/token_shift.h"

namespace weir::engine {

class DeviceShift {
 public:
  struct Arrays {
    float* x = nullptr;     // [tokens, channels], the norm's rows
    void* mixed = nullptr;  // [mixes][padded tokens, channels]
    int64_t pitch = 0;      // numbers between two mixes
  };

  DeviceShift() = default;
  // REQUIRES: the shares are of the token before. RESOURCE_EXHAUSTED, INTERNAL.
  static absl::StatusOr<DeviceShift> Take(const TokenShift& from,
                                          DeviceWeights& weights);

  DeviceTensor State(std::string name) const;
  Arrays Place(Workspace& workspace, int64_t padded_tokens) const;

  // arrays.x = the part's norm.
  absl::Status Norm(const DeviceInput& input, const Arrays& arrays) const;
  // Mixes [first, first + count) of arrays.x. `tensor` is the pool's of
  // State(). add [count][padded tokens, channels], arrays.pitch floats apart,
  // is added to the shares, or null.
  absl::Status Mix(const DeviceInput& input,
                   const Arrays& arrays,
                   size_t tensor,
                   int32_t first,
                   int32_t count,
                   const float* add) const;
  // The rows' last tokens go to their slots, after every Mix.
  absl::Status Keep(const DeviceInput& input,
                    const Arrays& arrays,
                    size_t tensor) const;
  // All of it, with every mix as it is.
  absl::Status Forward(const DeviceInput& input,
                       const Arrays& arrays,
                       size_t tensor) const;

  // [padded tokens, channels] of the products' numbers.
  const void* Mixed(const Arrays& arrays, int32_t index) const;

 private:
  ShiftedRows RowsOf(const DeviceInput& input,
                     const Arrays& arrays,
                     size_t tensor) const;

  StateNumber number_ = StateNumber::kFloat32;
  int32_t channels_ = 0;
  int32_t count_ = 0;
  DeviceMemory mixes_;  // [count, channels]
};

}  // namespace weir::engine
