// SPDX-License-Identifier: Apache-2.0
#include <cuda_runtime.h>

#include "engine/kernels/cuda/card.h"

namespace weir::engine {
namespace {

__global__ void ProbeKernel() {}

Card Ask() {
  Card card;
  int device = 0;
  if (cudaGetDevice(&device) != cudaSuccess) return card;
  cudaDeviceGetAttribute(
      &card.multiprocessors, cudaDevAttrMultiProcessorCount, device);
  cudaDeviceGetAttribute(
      &card.shared_bytes, cudaDevAttrMaxSharedMemoryPerBlockOptin, device);
  cudaFuncAttributes code;
  if (cudaFuncGetAttributes(&code, ProbeKernel) == cudaSuccess) {
    card.major = code.ptxVersion / 10;
  } else {
    // None for this card. The next launch must not find the error again.
    cudaGetLastError();
  }
  return card;
}

}  // namespace

const Card& ThisCard() {
  static const Card card = Ask();
  return card;
}

}  // namespace weir::engine
