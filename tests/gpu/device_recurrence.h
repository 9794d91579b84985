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

// KeySums of decode.h and the rest of a state, with memory of their own in host
// memory; what is empty is not there. Strides are floats between two slots.
struct DeviceSums {
  std::vector<float> rest;  // [slots][heads, V, K]
  int64_t rest_stride = 0;
  std::vector<float> keys;  // [slots][heads, 2, K]
  int64_t keys_stride = 0;
  float eps = 0;
  std::vector<float> dots;  // [T, heads]
  float floor = 0;
  std::vector<float> query_sums;  // [T, heads]
  std::vector<float> values;      // [slots][heads, 2, V]
  int64_t values_stride = 0;
  std::vector<float> counts;  // [slots][heads, 2]
  int64_t counts_stride = 0;
};

// Runs rows [0, rows) of the case and writes back its outputs and states, and
// `sums` if they are there. A failure of the launch is a failure of the test.
void RunOnDevice(engine::RecurrenceCase& work,
                 const DeviceForm& form,
                 DeviceSums* sums = nullptr);

// Of a bf16, by its bits.
float FromBfloat16(uint16_t bits);
// The nearest.
uint16_t ToBfloat16(float x);

}  // namespace weir::gpu
