// SPDX-License-Identifier: Apache-2.0
//
// The stream form of gated_delta_ring.h, for many states.
//
// Threads: any; the work is put on the caller's stream.
#pragma once

#include <cuda_runtime_api.h>

#include "engine/kernels/cuda/gated_delta_ring.h"

namespace weir::engine {

// Whether the arguments are such as it takes, but for row lengths.
bool CanStreamRing(const GatedDeltaRingArgs& args);

// Rows of one token; leaves out all others.
// REQUIRES: CanStreamRing(args).
cudaError_t StreamRing(const GatedDeltaRingArgs& args, cudaStream_t stream);

}  // namespace weir::engine
