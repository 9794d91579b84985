// SPDX-License-Identifier: Apache-2.0
//
// The stream form of gated_delta_decode.h, for many states on sm_90.
//
// Threads: any; the work is put on the caller's stream.
#pragma once

#include <cuda_runtime_api.h>

#include "engine/kernels/cuda/gated_delta_decode.h"

namespace weir::engine {

// Whether the card and the arguments are such as it takes, but for row lengths.
bool CanStreamGatedDelta(const GatedDeltaDecodeArgs& args);

// Rows of one token; leaves out all others.
// REQUIRES: CanStreamGatedDelta(args).
cudaError_t StreamGatedDelta(const GatedDeltaDecodeArgs& args,
                             cudaStream_t stream);

}  // namespace weir::engine
