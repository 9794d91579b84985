// SPDX-License-Identifier: Apache-2.0
//
// The mixers that are one recurrence, as recurrent_part.h takes them.
//
// Threads: as device_part.h.
#pragma once

#include <memory>

#include "absl/status/statusor.h"
#include "engine/device/device_part.h"
#include "engine/device/device_weights.h"
#include "engine/mixers/delta_net.h"
#include "engine/mixers/gated_delta_net.h"
#include "engine/mixers/gated_delta_product.h"
#include "engine/mixers/gated_linear_attention.h"
#include "engine/mixers/gdn2.h"
#include "engine/mixers/hgrn2.h"
#include "engine/mixers/kda.h"
#include "engine/mixers/lightning.h"
#include "engine/mixers/mamba2.h"
#include "engine/mixers/retention.h"
#include "engine/mixers/simple_gla.h"

namespace weir::engine {

// Errors of each as MakeRecurrentPart's.
using MadePart = absl::StatusOr<std::unique_ptr<DevicePart>>;
MadePart MakeDeltaNetPart(const DeltaNet& from, DeviceWeights& weights);
// For the shapes that gated_delta_part.h does not take.
MadePart MakeAnyGatedDeltaPart(const GatedDeltaNet& from,
                               DeviceWeights& weights);
MadePart MakeGatedDeltaProductPart(const GatedDeltaProduct& from,
                                   DeviceWeights& weights);
MadePart MakeGdn2Part(const Gdn2& from, DeviceWeights& weights);
MadePart MakeGlaPart(const GatedLinearAttention& from, DeviceWeights& weights);
MadePart MakeHgrn2Part(const Hgrn2& from, DeviceWeights& weights);
MadePart MakeKdaPart(const Kda& from, DeviceWeights& weights);
MadePart MakeLightningPart(const Lightning& from, DeviceWeights& weights);
MadePart MakeMamba2Part(const Mamba2& from, DeviceWeights& weights);
MadePart MakeRetentionPart(const Retention& from, DeviceWeights& weights);
MadePart MakeSimpleGlaPart(const SimpleGla& from, DeviceWeights& weights);

}  // namespace weir::engine
