// SPDX-License-Identifier: Apache-2.0
//
// Runs a RecurrenceCase by the GPU's chunk kernels: its arrays go there with
// gaps of their own, queries, keys and values as bf16.
//
// Threads: one.
#pragma once

#include <cstdint>
#include <vector>

#include "engine/kernels/cuda/chunk.h"
#include "tests/conformance/recurrence_case.h"
#include "tests/gpu/device_array.h"

namespace weir::gpu {

// Rounds the case's queries, keys and values to bf16, in place.
void RoundOperands(engine::RecurrenceCase& work);

// The case's arrays on the device.
class ChunkArrays {
 public:
  // `consumed` by row, or empty: none is fresh.
  ChunkArrays(const engine::RecurrenceCase& work,
              const std::vector<uint32_t>& consumed,
              engine::StateNumber number = engine::StateNumber::kFloat32);

  const engine::ChunkArgs& args() const { return args_; }
  // The results, into the case.
  void Take(engine::RecurrenceCase& work) const;

 private:
  void SetArgs(const engine::RecurrenceCase& work, bool has_consumed);

  using Numbers = DeviceArray<uint16_t>;

  DeviceArray<int32_t> row_starts_;
  DeviceArray<int32_t> slots_;
  DeviceArray<uint32_t> consumed_;
  Numbers q_;
  Numbers k_;
  Numbers v_;
  Numbers out_;
  DeviceArray<float> log2_decay_;
  DeviceArray<float> beta_;
  // The states, in one of them.
  DeviceArray<float> state_;
  Numbers narrow_state_;
  engine::ChunkArgs args_;
  DeviceArray<uint8_t> workspace_;
};

// Runs the batch and writes back its outputs and states. A failure of the
// launch is a failure of the test.
void RunChunksOnDevice(
    engine::RecurrenceCase& work,
    const std::vector<uint32_t>& consumed,
    engine::StateNumber number = engine::StateNumber::kFloat32);

}  // namespace weir::gpu
