// SPDX-License-Identifier: Apache-2.0
//
// Mamba-1 on a GPU, with Falcon-Mamba's norms of r, B and C: the convolution
// of mixer_front.h, r, B and C in one product, the time step in another, then
// selective_scan.h, which gates its outputs itself. Its state is fp32 whatever
// is asked for: a channel's few numbers hold what it has of the past, with
// decays next to one.
//
// Threads: as device_part.h.
#pragma once

#include <memory>

#include "absl/status/statusor.h"
#include "engine/device/device_part.h"
#include "engine/device/device_weights.h"
#include "engine/mixers/mamba.h"

namespace weir::engine {

// RESOURCE_EXHAUSTED, INTERNAL; UNIMPLEMENTED for shapes that the kernels do
// not take, saying which.
absl::StatusOr<std::unique_ptr<DevicePart>> MakeMambaPart(
    const Mamba& from, DeviceWeights& weights);

}  // namespace weir::engine
