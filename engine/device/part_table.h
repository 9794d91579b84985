// SPDX-License-Identifier: Apache-2.0
//
// Which mixers run on a GPU, and how they get there. A mixer enters by a pair
// of files in this folder and one line in part_table.cc.
//
// Threads: one.
#pragma once

#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "engine/device/device_part.h"
#include "engine/device/device_weights.h"
#include "engine/mixers/mixer.h"
#include "engine/state/state_form.h"

namespace weir::engine {

// The part of a GPU that does what `from` does, with its weights.
// UNIMPLEMENTED for a mixer that has none there, or not in that form, or a
// shape that its kernels do not take, saying which; RESOURCE_EXHAUSTED,
// INTERNAL.
absl::StatusOr<std::unique_ptr<DevicePart>> MakeDevicePart(
    const Mixer& from, StateForm form, DeviceWeights& weights);

}  // namespace weir::engine
