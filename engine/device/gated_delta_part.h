// SPDX-License-Identifier: Apache-2.0
//
// Gated DeltaNet's mixer on a GPU: one launch between its two products for
// rows of one token; for long rows the chunk form, or in fp32 the recurrent
// one, between two passes over the tokens.
//
// Threads: as device_part.h.
#pragma once

#include <memory>

#include "absl/status/statusor.h"
#include "engine/device/device_part.h"
#include "engine/device/device_weights.h"
#include "engine/mixers/gated_delta_net.h"
#include "engine/state/state_form.h"

namespace weir::engine {

// Whether the kernels take its shape.
bool TakesGatedDelta(const GatedDeltaNet& from);

// In the ring form a session holds its ring as well, and rows of several tokens
// fold it first. RESOURCE_EXHAUSTED, INTERNAL; UNIMPLEMENTED for shapes that
// the kernels do not take, with the key and what it may be.
absl::StatusOr<std::unique_ptr<DevicePart>> MakeGatedDeltaPart(
    const GatedDeltaNet& from, StateForm form, DeviceWeights& weights);

}  // namespace weir::engine
