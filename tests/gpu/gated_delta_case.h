// SPDX-License-Identifier: Apache-2.0
//
// Gated DeltaNet's mixer between its projections over a ragged batch, with
// random inputs, weights and states; run by the formulas in fp64 or on the GPU.
//
// Threads: one.
#pragma once

#include <cstdint>
#include <vector>

#include "engine/kernels/cuda/gated_delta_decode.h"

namespace weir::gpu {

struct GatedDeltaShape {
  int32_t heads = 4;
  int32_t key_heads = 2;
  int32_t key_dim = 128;
  int32_t value_dim = 128;
  int32_t conv_width = 4;
  engine::GateKind gate = engine::GateKind::kSilu;
  engine::StateNumber number = engine::StateNumber::kFloat32;
  bool bias = false;
  engine::GatedDeltaForm form = engine::GatedDeltaForm::kByStates;
  bool begins_early = false;
  // In device memory; a bf16 at rest is rounded there.
  engine::StateNumber state_number = engine::StateNumber::kFloat32;
};

struct GatedDeltaCase {
  // Row r has row_tokens[r] tokens and slot r, which has consumed r + 2 tokens.
  GatedDeltaCase(const GatedDeltaShape& shape_in,
                 const std::vector<int32_t>& row_tokens,
                 uint32_t seed);

  // The definition, in fp64; changes out, state and window.
  void RunReference();
  void RunOnDevice();

  int64_t keys() const { return int64_t{shape.key_heads} * shape.key_dim; }
  int64_t values() const { return int64_t{shape.heads} * shape.value_dim; }
  int64_t mixed() const { return 2 * keys() + values(); }
  int64_t columns() const { return mixed() + values() + 2 * shape.heads; }
  int64_t state_numbers() const { return values() * shape.key_dim; }
  int64_t window_numbers() const { return shape.conv_width * mixed(); }

  std::vector<float> RowOut(int32_t row) const;
  std::vector<float> SlotState(int32_t slot) const;
  std::vector<float> SlotWindow(int32_t slot) const;

  GatedDeltaShape shape;
  std::vector<int32_t> row_starts;
  std::vector<int32_t> slots;
  std::vector<uint32_t> consumed;  // by row
  int32_t slot_count;
  int64_t tokens;
  std::vector<float> projected;  // of numbers that `number` holds exactly
  std::vector<float> conv_weight, conv_bias, a_log, dt_bias, norm_weight;
  std::vector<float> out, state, window;

 private:
  void ReferenceRow(size_t row);
  int32_t RowTokensMax() const;
};

}  // namespace weir::gpu
