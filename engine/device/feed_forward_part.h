// SPDX-License-Identifier: Apache-2.0
//
// The feed-forward part on a GPU: down(silu(gate x) * up x). Without a state.
//
// Threads: as device_part.h.
#pragma once

#include <memory>

#include "absl/status/statusor.h"
#include "engine/device/device_part.h"
#include "engine/device/device_weights.h"
#include "engine/mixers/feed_forward.h"

namespace weir::engine {

// RESOURCE_EXHAUSTED, INTERNAL; UNIMPLEMENTED for an intermediate size that the
// kernels do not take.
absl::StatusOr<std::unique_ptr<DevicePart>> MakeFeedForwardPart(
    const SwiGlu& from, DeviceWeights& weights);

}  // namespace weir::engine
