// SPDX-License-Identifier: Apache-2.0
//
// The engine on an NVIDIA GPU: weights, states and steps in its memory; one
// copy there and one back for each step.
//
// A build for CPUs has this function too; it says that it cannot.
//
// Threads: as engine.h.
#pragma once

#include <cstdint>
#include <memory>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "engine/engine.h"
#include "engine/state/state_form.h"

namespace weir::engine {

// What products are made of: weights, and what goes into them. Sums are fp32
// with either; kFloat32 does without TF32.
enum class Compute { kBfloat16, kFloat32 };

// How recurrent states rest between steps. Arithmetic is fp32 with either; to
// bf16 they are rounded by chance (kernels/cuda/decode.h).
enum class RestNumber { kFloat32, kBfloat16 };

struct CudaEngineOptions {
  std::string model_dir;
  Compute compute = Compute::kBfloat16;
  RestNumber state = RestNumber::kFloat32;
  // Of all states in the pool. A state that was saved in one form is refused by
  // an engine of the other.
  StateForm state_form = StateForm::kWrite;
  // The pool's size: a number of slots, or as many as fit the bytes; neither:
  // as many as the card holds beside the rest.
  int32_t slots = 0;
  int64_t pool_bytes = 0;
  // Of a step.
  int32_t step_rows_max = 512;
  int64_t step_tokens_max = 8192;
  bool allow_nonfinite = false;  // take weights that hold a NaN
};

// UNIMPLEMENTED in a build without the engine. A GPU need not be there.
absl::Status CheckCudaBuild();

// INVALID_ARGUMENT, NOT_FOUND, DATA_LOSS for a model folder that is refused;
// UNIMPLEMENTED for a model that runs on a CPU only or has not the form of
// state asked for, for a machine without a GPU and in a build without one;
// RESOURCE_EXHAUSTED with the sizes if memory cannot be had; INTERNAL.
absl::StatusOr<std::unique_ptr<Engine>> CreateCudaEngine(
    const CudaEngineOptions& options);

}  // namespace weir::engine
