// SPDX-License-Identifier: Apache-2.0
//
// The form of gated_delta_decode.h that takes a row's tokens together, for rows
// of 2 to 32 tokens on sm_90.
//
// Threads: any; the work is put on the caller's stream.
#pragma once

#include <cuda_runtime_api.h>

#include "engine/kernels/cuda/gated_delta_decode.h"

namespace weir::engine {

// The most tokens of a row that it takes; 0 where the card or the arguments
// are not such as it takes.
int32_t TogetherTokensMax(const GatedDeltaDecodeArgs& args);

// Rows of 2 to TogetherTokensMax(args) tokens; leaves out all others. Keeps
// their windows.
// REQUIRES: TogetherTokensMax(args) > 0.
cudaError_t DecodeTogether(const GatedDeltaDecodeArgs& args,
                           cudaStream_t stream);

}  // namespace weir::engine
