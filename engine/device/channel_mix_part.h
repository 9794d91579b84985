// SPDX-License-Identifier: Apache-2.0
//
// RWKV's feed-forward part on a GPU, of each of its versions. Its state is one
// row, the last input.
//
// Threads: as device_part.h.
#pragma once

#include <memory>

#include "absl/status/statusor.h"
#include "engine/device/device_part.h"
#include "engine/device/device_weights.h"
#include "engine/mixers/channel_mix.h"

namespace weir::engine {

// RESOURCE_EXHAUSTED, INTERNAL; UNIMPLEMENTED for an intermediate size that no
// product takes.
absl::StatusOr<std::unique_ptr<DevicePart>> MakeChannelMixPart(
    const ChannelMix& from, DeviceWeights& weights);

}  // namespace weir::engine
