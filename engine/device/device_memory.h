// SPDX-License-Identifier: Apache-2.0
//
// Memory of a GPU, and of the host where the GPU copies from and to, each taken
// once and given back by its owner's end.
//
// Threads: as plain arrays.
#pragma once

#include <cuda_runtime_api.h>

#include <cstddef>
#include <cstdint>
#include <utility>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace weir::engine {

// INTERNAL with what failed and what the library says; OK for cudaSuccess.
absl::Status CudaStatus(cudaError_t status, const char* what);

class DeviceMemory {
 public:
  DeviceMemory() = default;
  ~DeviceMemory();
  DeviceMemory(DeviceMemory&& other) noexcept
      : data_(std::exchange(other.data_, nullptr)),
        bytes_(std::exchange(other.bytes_, 0)) {}
  DeviceMemory& operator=(DeviceMemory&& other) noexcept {
    std::swap(data_, other.data_);
    std::swap(bytes_, other.bytes_);
    return *this;
  }

  // Zeroed. RESOURCE_EXHAUSTED with `what` it is for, its size and what the
  // card has free. 0 bytes: nothing is taken and data() is null.
  static absl::StatusOr<DeviceMemory> Take(int64_t bytes, const char* what);

  void* data() const { return data_; }
  int64_t bytes() const { return bytes_; }
  template <typename T>
  T* as() const {
    return static_cast<T*>(data_);
  }

 private:
  void* data_ = nullptr;
  int64_t bytes_ = 0;
};

// Host memory that stays where it is, so that copies need not wait.
class PinnedMemory {
 public:
  PinnedMemory() = default;
  ~PinnedMemory();
  PinnedMemory(PinnedMemory&& other) noexcept
      : data_(std::exchange(other.data_, nullptr)) {}
  PinnedMemory& operator=(PinnedMemory&& other) noexcept {
    std::swap(data_, other.data_);
    return *this;
  }

  // RESOURCE_EXHAUSTED.
  static absl::StatusOr<PinnedMemory> Take(int64_t bytes, const char* what);

  std::byte* data() const { return data_; }

 private:
  std::byte* data_ = nullptr;
};

}  // namespace weir::engine
