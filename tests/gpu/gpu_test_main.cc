// SPDX-License-Identifier: Apache-2.0
//
// Runs the tests where there is a GPU; elsewhere says that there is none and
// ends with 77, which CTest and ./run test --gpu take as skipped.
#include <cuda_runtime_api.h>
#include <gtest/gtest.h>

#include <cstdio>

namespace {

constexpr int kSkipped = 77;

}  // namespace

int main(int argc, char** argv) {
  testing::InitGoogleTest(&argc, argv);
  int devices = 0;
  const cudaError_t status = cudaGetDeviceCount(&devices);
  if (status != cudaSuccess || devices == 0) {
    std::printf(
        "skipped: needs an NVIDIA GPU: %s\n",
        status == cudaSuccess ? "there is none" : cudaGetErrorString(status));
    return kSkipped;
  }
  return RUN_ALL_TESTS();
}
