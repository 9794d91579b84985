// SPDX-License-Identifier: Apache-2.0
#include "tests/gpu/trap.h"

namespace weir::gpu {
namespace {

__global__ void TrapKernel() { asm volatile("trap;"); }

}  // namespace

void LaunchTrap() {
  cudaStream_t stream;
  cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking);
  TrapKernel<<<1, 1, 0, stream>>>();
  cudaStreamSynchronize(stream);
}

}  // namespace weir::gpu
