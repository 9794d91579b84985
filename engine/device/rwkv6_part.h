// SPDX-License-Identifier: Apache-2.0
//
// RWKV-6's time mix on a GPU: rows of any length go through decode.h token by
// token.
//
// Threads: as device_part.h.
#pragma once

#include <memory>

#include "absl/status/statusor.h"
#include "engine/device/device_part.h"
#include "engine/device/device_weights.h"
#include "engine/mixers/rwkv6.h"

namespace weir::engine {

// RESOURCE_EXHAUSTED, INTERNAL; UNIMPLEMENTED for shapes that the kernels do
// not take, saying which.
absl::StatusOr<std::unique_ptr<DevicePart>> MakeRwkv6Part(
    const Rwkv6& from, DeviceWeights& weights);

}  // namespace weir::engine
