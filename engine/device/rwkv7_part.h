// SPDX-License-Identifier: Apache-2.0
//
// RWKV-7's time mix on a GPU: rows of any length go through decode.h token by
// token. The values of the first layer reach the others through
// DeviceInput::shared.
//
// Threads: as device_part.h.
#pragma once

#include <memory>

#include "absl/status/statusor.h"
#include "engine/device/device_part.h"
#include "engine/device/device_weights.h"
#include "engine/mixers/rwkv7.h"

namespace weir::engine {

// RESOURCE_EXHAUSTED, INTERNAL; UNIMPLEMENTED for shapes that the kernels do
// not take, saying which.
absl::StatusOr<std::unique_ptr<DevicePart>> MakeRwkv7Part(
    const Rwkv7& from, DeviceWeights& weights);

}  // namespace weir::engine
