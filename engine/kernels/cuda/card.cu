// SPDX-License-Identifier: Apache-2.0
#include <cuda_runtime_api.h>

#include "engine/kernels/cuda/card.h"

namespace weir::engine {
namespace {

Card Ask() {
  Card card;
  int device = 0;
  if (cudaGetDevice(&device) != cudaSuccess) return card;
  cudaDeviceGetAttribute(
      &card.multiprocessors, cudaDevAttrMultiProcessorCount, device);
  cudaDeviceGetAttribute(
      &card.major, cudaDevAttrComputeCapabilityMajor, device);
  return card;
}

}  // namespace

const Card& ThisCard() {
  static const Card card = Ask();
  return card;
}

}  // namespace weir::engine
