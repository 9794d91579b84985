// SPDX-License-Identifier: Apache-2.0
//
// Every kernel of one target, as a table; the last include of a target file.
//
// Threads: plain functions.
#pragma once

#include "engine/kernels/chunk_kernel.h"
#include "engine/kernels/kernel_table.h"
#include "engine/kernels/norm_kernel.h"
#include "engine/kernels/pointwise_kernel.h"
#include "engine/kernels/recurrent_kernel.h"
#include "engine/kernels/short_conv_kernel.h"

namespace weir::engine {
namespace {

constexpr KernelTable TargetKernels(const char* name) {
  return {
      .name = name,
      .recurrent = Recurrent,
      .chunk_scratch_floats = ChunkScratchFloats,
      .chunk = Chunk,
      .short_conv = Convolve,
      .norm = NormRows,
      .add_norm = AddNormRows,
      .gated_norm = GatedNormRows,
      .l2_normalize_heads = L2NormalizeRows,
      .silu_multiply = SiluMultiplyRows,
      .delta_gates = DeltaGateRows,
      .time_step = TimeStepRows,
      .add_skip = AddSkipRows,
      .log_probabilities = LogProbabilityRows,
      .soft_cap = SoftCapAll,
      .all_finite = IsAllFinite,
  };
}

}  // namespace
}  // namespace weir::engine
