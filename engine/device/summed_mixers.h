// SPDX-License-Identifier: Apache-2.0
//
// The mixers whose sums nothing damps, as summed_part.h takes them.
//
// Threads: as device_part.h.
#pragma once

#include <memory>

#include "absl/status/statusor.h"
#include "engine/device/device_part.h"
#include "engine/device/device_weights.h"
#include "engine/mixers/linear_attention.h"
#include "engine/mixers/linear_transformer.h"
#include "engine/mixers/performer.h"

namespace weir::engine {

// Errors of each as MakeSummedPart's.
absl::StatusOr<std::unique_ptr<DevicePart>> MakeLinearAttentionPart(
    const LinearAttention& from, DeviceWeights& weights);
absl::StatusOr<std::unique_ptr<DevicePart>> MakeLinearTransformerPart(
    const LinearTransformer& from, DeviceWeights& weights);
absl::StatusOr<std::unique_ptr<DevicePart>> MakePerformerPart(
    const Performer& from, DeviceWeights& weights);

}  // namespace weir::engine
