// SPDX-License-Identifier: Apache-2.0
//
// A ragged batch for Mamba-1's scan on a GPU, by itself and by the fp64
// reference. Every array has gaps that no kernel may write, and no kernel's
// result may hang on.
//
// Threads: one.
#pragma once

#include <cstdint>
#include <vector>

#include "engine/kernels/cuda/selective_scan.h"

namespace weir::gpu {

inline constexpr float kScanMark = -7.5e30F;

struct ScanCase {
  // Row r has row_tokens[r] tokens and slot r; none is fresh.
  ScanCase(int32_t channels_in,
           int32_t states_in,
           const std::vector<int32_t>& row_tokens);

  // Of host memory, with `out`.
  engine::SelectiveScanArgs Args();
  // A failure of the launches is a failure of the test.
  void RunOnDevice();
  void RunReference();

  // [tokens][channels] of one row, and [states, channels] of one slot.
  std::vector<float> RowOut(int32_t row) const;
  std::vector<float> SlotState(int32_t slot) const;
  int32_t rows() const { return static_cast<int32_t>(slots.size()); }

  int32_t channels;
  int32_t states;
  bool gated = true;
  engine::StateNumber number = engine::StateNumber::kFloat32;  // of `out`
  std::vector<int32_t> row_starts = {0};
  std::vector<int32_t> slots;
  std::vector<uint32_t> consumed;
  int64_t stride = 0;
  int64_t selected_stride = 0;
  int64_t state_stride = 0;
  std::vector<float> dt, x, z, bc, dt_bias, rate, d, out, state;
};

}  // namespace weir::gpu
