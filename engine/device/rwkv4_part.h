// SPDX-License-Identifier: Apache-2.0
//
// RWKV-4's time mix on a GPU, around wkv.h. Its state is fp32 whatever is asked
// for: it is a few numbers a channel, which hold sums of the whole stream.
//
// Threads: as device_part.h.
#pragma once

#include <memory>

#include "absl/status/statusor.h"
#include "engine/device/device_part.h"
#include "engine/device/device_weights.h"
#include "engine/mixers/rwkv4.h"

namespace weir::engine {

// RESOURCE_EXHAUSTED, INTERNAL; UNIMPLEMENTED for a width that no product
// takes.
absl::StatusOr<std::unique_ptr<DevicePart>> MakeRwkv4Part(
    const Rwkv4& from, DeviceWeights& weights);

}  // namespace weir::engine
