// SPDX-License-Identifier: Apache-2.0
//
// The gates of pointwise.h, channel_gates.h and slots.h on a GPU, by the same
// formulas, over tokens [0, tokens): what a mixer's recurrence decays by, and
// what it writes.
//
// Bound: bytes of device memory.
//
// Threads: any; the work is put on the caller's stream. Arrays lie in device
// memory. Each returns what the launch returned.
#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>

#include "engine/kernels/channel_gates.h"
#include "engine/kernels/pointwise.h"
#include "engine/kernels/slots.h"

namespace weir::engine {

// `log2_decay` or `beta` may be null, and is left out.
cudaError_t DeltaGateRows(const DeltaGateArgs& args,
                          int64_t tokens,
                          cudaStream_t stream);
// Of x + bias; bias [width] or null.
cudaError_t LogSigmoidRows(const LogSigmoidArgs& args,
                           const float* bias,
                           int64_t tokens,
                           cudaStream_t stream);
cudaError_t KdaGateRows(const KdaGateArgs& args,
                        int64_t tokens,
                        cudaStream_t stream);
cudaError_t Gdn2GateRows(const Gdn2GateArgs& args,
                         int64_t tokens,
                         cudaStream_t stream);
cudaError_t HgrnGateRows(const HgrnGateArgs& args,
                         int64_t tokens,
                         cudaStream_t stream);
cudaError_t TimeStepRows(const TimeStepArgs& args,
                         int64_t tokens,
                         cudaStream_t stream);
cudaError_t SlotGateRows(const SlotGateArgs& args,
                         int64_t tokens,
                         cudaStream_t stream);
cudaError_t SlotSoftmaxRows(const SlotSoftmaxArgs& args,
                            int64_t tokens,
                            cudaStream_t stream);

// out [T, width] = sigmoid(gate) up, contiguous; out may be either.
cudaError_t SigmoidMultiplyRows(TokenRows gate,
                                TokenRows up,
                                int32_t width,
                                float* out,
                                int64_t tokens,
                                cudaStream_t stream);

}  // namespace weir::engine
