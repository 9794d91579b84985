// SPDX-License-Identifier: Apache-2.0
//
// What the decode kernels are held against: a kernel that reads pieces of
// memory and writes them back where they were, and does nothing else.
//
// Threads: any; the work is put on the caller's stream.
#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>

namespace weir::gpu {

// Scales `pieces` pieces of `piece_bytes`, a multiple of 16, at `base` +
// slots[piece / pieces_of_slot] * slot_bytes + piece % pieces_of_slot *
// piece_bytes.
struct CopyArgs {
  float* base = nullptr;
  const int32_t* slots = nullptr;
  int32_t rows = 0;
  int32_t pieces_of_slot = 0;
  int64_t piece_bytes = 0;
  int64_t slot_bytes = 0;
};
cudaError_t CopyInPlace(const CopyArgs& args, cudaStream_t stream);

// Numbers of a normal distribution's size in all of x [count].
cudaError_t FillRandom(float* x, int64_t count, cudaStream_t stream);
cudaError_t FillRandomBfloat16(void* x, int64_t count, cudaStream_t stream);

}  // namespace weir::gpu
