// SPDX-License-Identifier: Apache-2.0
//
// The engine on a GPU in a build without one.
#include "engine/cuda_engine.h"

namespace weir::engine {

absl::Status CheckCudaBuild() {
  return absl::UnimplementedError(
      "this build has no GPU support: build with the preset cuda, or serve "
      "with --device cpu");
}

absl::StatusOr<std::unique_ptr<Engine>> CreateCudaEngine(
    const CudaEngineOptions& options) {
  (void)options;
  return CheckCudaBuild();
}

}  // namespace weir::engine
