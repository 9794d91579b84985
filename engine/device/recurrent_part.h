// SPDX-License-Identifier: Apache-2.0
//
// The mixers of one recurrence on a GPU, each by what it says of itself: its
// front, the gates that make its decay and correction, and its end. Rows go
// through the recurrence token by token; long rows in chunks where the numbers
// are bf16 and chunk.h has the decay, the correction and the head's sizes.
//
// Threads: as device_part.h.
#pragma once

#include <cstdint>
#include <memory>
#include <span>

#include "absl/status/statusor.h"
#include "engine/device/device_part.h"
#include "engine/device/device_weights.h"
#include "engine/device/mixer_front.h"
#include "engine/device/recurrent_gates.h"
#include "engine/mixers/linear.h"

namespace weir::engine {

// A mixer's end: GatedNorm's shape. gate_column is the gate's, of the
// projections, or of what gate_up takes.
struct EndShape {
  int32_t groups = 1;
  bool shared_weight = true;
  float eps = 0;
  GateKind gate = GateKind::kNone;
  GateOrder order = GateOrder::kAfterNorm;
  int64_t gate_column = 0;
};

// Weights are in host memory; what a mixer has not is left out.
struct RecurrentSource {
  FrontShape front;
  const Linear* projection = nullptr;
  const Buffer* conv = nullptr;
  const Buffer* conv_bias = nullptr;
  GateShape gates;
  GateSource gates_from;
  std::span<const double> angles = {};  // [K / 2]: q and k are turned
  EndShape end;
  const Linear* gate_up = nullptr;
  std::span<const float> skip = {};  // d of AddSkip, [heads]
  const Buffer* norm = nullptr;
  const Linear* out = nullptr;
};

// RESOURCE_EXHAUSTED, INTERNAL; UNIMPLEMENTED for shapes that the kernels do
// not take, saying which.
absl::StatusOr<std::unique_ptr<DevicePart>> MakeRecurrentPart(
    const RecurrentSource& from, DeviceWeights& weights);

}  // namespace weir::engine
