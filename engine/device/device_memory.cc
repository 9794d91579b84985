// SPDX-License-Identifier: Apache-2.0
#include "engine/device/device_memory.h"

#include "absl/strings/str_cat.h"
#include "base/status_macros.h"

namespace weir::engine {
namespace {

absl::Status NoMemory(int64_t bytes, const char* what, cudaError_t status) {
  // It is told here; the next launch must not find it again.
  cudaGetLastError();
  size_t free_bytes = 0;
  size_t card_bytes = 0;
  if (cudaMemGetInfo(&free_bytes, &card_bytes) != cudaSuccess) {
    cudaGetLastError();
  }
  return absl::ResourceExhaustedError(absl::StrCat("no device memory for ",
                                                   what,
                                                   " of ",
                                                   bytes,
                                                   " bytes: of the card's ",
                                                   card_bytes,
                                                   " bytes ",
                                                   free_bytes,
                                                   " are free (",
                                                   cudaGetErrorString(status),
                                                   ")"));
}

}  // namespace

absl::Status CudaStatus(cudaError_t status, const char* what) {
  if (status == cudaSuccess) return absl::OkStatus();
  return absl::InternalError(absl::StrCat(
      what, ": ", cudaGetErrorName(status), ", ", cudaGetErrorString(status)));
}

DeviceMemory::~DeviceMemory() {
  if (data_ != nullptr) cudaFree(data_);
}

absl::StatusOr<DeviceMemory> DeviceMemory::Take(int64_t bytes,
                                                const char* what) {
  DeviceMemory memory;
  if (bytes == 0) return memory;
  void* data = nullptr;
  const cudaError_t status = cudaMalloc(&data, static_cast<size_t>(bytes));
  if (status != cudaSuccess) return NoMemory(bytes, what, status);
  memory.data_ = data;
  memory.bytes_ = bytes;
  WEIR_RETURN_IF_ERROR(
      CudaStatus(cudaMemset(data, 0, static_cast<size_t>(bytes)), what));
  return memory;
}

PinnedMemory::~PinnedMemory() {
  if (data_ != nullptr) cudaFreeHost(data_);
}

absl::StatusOr<PinnedMemory> PinnedMemory::Take(int64_t bytes,
                                                const char* what) {
  void* data = nullptr;
  const cudaError_t status = cudaMallocHost(&data, static_cast<size_t>(bytes));
  if (status != cudaSuccess) {
    cudaGetLastError();
    return absl::ResourceExhaustedError(
        absl::StrCat("no pinned host memory for ",
                     what,
                     " of ",
                     bytes,
                     " bytes: ",
                     cudaGetErrorString(status)));
  }
  PinnedMemory memory;
  memory.data_ = static_cast<std::byte*>(data);
  return memory;
}

}  // namespace weir::engine
