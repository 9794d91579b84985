// SPDX-License-Identifier: Apache-2.0
//
// A launch that begins before the one before it has ended, on sm_90: it may
// read what no launch near it writes, and no block of it may end before it has
// awaited the one before. Launches behind it in the stream rely on that.
//
// Threads: as each function says.
#pragma once

#include <cuda_runtime_api.h>

namespace weir::engine {

// Every thread. What is before may still run; nothing it wrote may be read
// before this.
__device__ inline void AwaitLaunchBefore() {
#if __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.wait;" ::: "memory");
#endif
}

// One thread of each block, or all: the next launch may begin, if it was made
// as one that does.
__device__ inline void LetNextLaunchBegin() {
#if __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.launch_dependents;" ::: "memory");
#endif
}

// Of a launch that begins early.
inline cudaLaunchAttribute BeginsEarly() {
  cudaLaunchAttribute attribute = {};
  attribute.id = cudaLaunchAttributeProgrammaticStreamSerialization;
  attribute.val.programmaticStreamSerializationAllowed = 1;
  return attribute;
}

}  // namespace weir::engine
