// SPDX-License-Identifier: Apache-2.0
//
// Linear attention whose sums nothing damps, on a GPU: features of queries and
// keys, the recurrence of a state that is held as two floats (as bf16 at rest:
// as one number, rounded by chance), the sums of keys that the output is
// divided by, and the mixer's end. Rows go token by token.
//
// Threads: as device_part.h.
#pragma once

#include <memory>

#include "absl/status/statusor.h"
#include "engine/device/device_part.h"
#include "engine/device/device_weights.h"
#include "engine/device/key_features.h"
#include "engine/device/mixer_front.h"
#include "engine/mixers/linear.h"

namespace weir::engine {

// Weights are in host memory. Heads are the front's, of queries, keys and
// values alike.
struct SummedSource {
  FrontShape front;
  const Linear* projection = nullptr;
  FeatureShape features;
  FeatureSource features_from;
  int32_t value_dim = 0;
  bool has_sums = false;         // the output is divided
  float key_eps = 0;             // beside each sum of keys
  float dot_eps = 0;             // beside the divisor
  const Buffer* norm = nullptr;  // [V], of each head; null: none
  float norm_eps = 0;
  const Linear* out = nullptr;
};

// RESOURCE_EXHAUSTED, INTERNAL; UNIMPLEMENTED for shapes that the kernels do
// not take, saying which.
absl::StatusOr<std::unique_ptr<DevicePart>> MakeSummedPart(
    const SummedSource& from, DeviceWeights& weights);

}  // namespace weir::engine
