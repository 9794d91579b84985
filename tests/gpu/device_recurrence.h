// SPDX-License-Identifier: Apache-2.0
//
// Runs a RecurrenceCase on the GPU: its arrays go there with their gaps, the
// state's slots to a slab whose stride the kernels take.
//
// Threads: one.
#pragma once

#include <cstdint>
#include <vector>

#include "engine/kernels/cuda/decode.h"
#include "tests/conformance/recurrence_case.h"

namespace weir::gpu {

struct DeviceForm {
  engine::StateNumber number = engine::StateNumber::kFloat32;
  std::vector<uint32_t> consumed;  // by row; empty: none is fresh
  uint32_t rounding_seed = 1;
};

// Runs rows [0, rows) of the case and writes back its outputs and states. A
// failure of the launch is a failure of the test.
void RunOnDevice(engine::RecurrenceCase& work, const DeviceForm& form);

// Of a bf16, by its bits.
float FromBfloat16(uint16_t bits);
// The nearest.
uint16_t ToBfloat16(float x);

}  // namespace weir::gpu
