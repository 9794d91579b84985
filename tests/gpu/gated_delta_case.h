// SPDX-License-Identifier: Apache-2.0
//
// Gated DeltaNet's mixer between its projections over a ragged batch, with
// random inputs, weights and states; run by the formulas in fp64 or on the GPU.
//
// Threads: one.
#pragma once

#include <cstdint>
#include <functional>
#include <vector>

#include "engine/kernels/cuda/gated_delta_decode.h"
#include "engine/kernels/cuda/gated_delta_ring.h"

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
  // The same by the ring form, which changes the rings as well.
  void RunByRing();
  // Folds the rings of the rows of so many tokens.
  void FoldOnDevice(int32_t tokens_min);

  int64_t keys() const { return int64_t{shape.key_heads} * shape.key_dim; }
  int64_t values() const { return int64_t{shape.heads} * shape.value_dim; }
  int64_t mixed() const { return 2 * keys() + values(); }
  int64_t columns() const { return mixed() + values() + 2 * shape.heads; }
  int64_t state_numbers() const { return values() * shape.key_dim; }
  int64_t window_numbers() const { return shape.conv_width * mixed(); }
  int64_t ring_numbers() const;

  std::vector<float> RowOut(int32_t row) const;
  std::vector<float> SlotState(int32_t slot) const;
  std::vector<float> SlotWindow(int32_t slot) const;
  std::vector<float> SlotRing(int32_t slot) const;

  GatedDeltaShape shape;
  std::vector<int32_t> row_starts;
  std::vector<int32_t> slots;
  std::vector<uint32_t> consumed;  // by row
  int32_t slot_count;
  int64_t tokens;
  std::vector<float> projected;  // of numbers that `number` holds exactly
  std::vector<float> conv_weight, conv_bias, a_log, dt_bias, norm_weight;
  std::vector<float> out, state, window;
  // Empty ones, of NaN wherever nothing need be.
  std::vector<float> ring;
  // As GatedDeltaRingArgs.
  int32_t block_values = 0;
  engine::GatedDeltaRingForm ring_form = engine::GatedDeltaRingForm::kByStates;

 private:
  void ReferenceRow(size_t row);
  // The rows and the shape, as the kernels are told of them.
  engine::GatedDeltaDecodeArgs Shape() const;
  void OnDevice(
      const std::function<cudaError_t(const engine::GatedDeltaRingArgs&)>& run);
  int32_t RowTokensMax() const;
  // -exp(a_log) log2(e), as the kernels take it.
  std::vector<float> Log2Rates() const;
};

}  // namespace weir::gpu
