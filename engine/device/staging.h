// SPDX-License-Identifier: Apache-2.0
//
// What a step's plan says, brought to a GPU in one copy: arrays are laid one
// behind the other in host memory and lie in the same order in device memory.
// The same sizes taken in the same order lie at the same addresses, which is
// what a captured step counts on.
//
// Threads: the step thread.
#pragma once

#include <cuda_runtime_api.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "base/check.h"
#include "engine/device/device_memory.h"

namespace weir::engine {

// An array in both memories.
template <typename T>
struct Staged {
  T* host = nullptr;
  T* device = nullptr;
  int64_t count = 0;

  void Fill(T value) const { std::fill_n(host, count, value); }
};

class Staging {
 public:
  // RESOURCE_EXHAUSTED.
  static absl::StatusOr<Staging> Create(int64_t bytes, const char* what) {
    Staging staging;
    auto host = PinnedMemory::Take(bytes, what);
    if (!host.ok()) return host.status();
    auto device = DeviceMemory::Take(bytes, what);
    if (!device.ok()) return device.status();
    staging.host_ = *std::move(host);
    staging.device_ = *std::move(device);
    return staging;
  }

  // Forgets what was taken.
  void Clear() { used_ = 0; }
  // REQUIRES: it fits.
  template <typename T>
  Staged<T> Take(int64_t count) {
    const int64_t bytes = count * static_cast<int64_t>(sizeof(T));
    WEIR_CHECK(used_ + bytes <= device_.bytes());
    const Staged<T> array = {
        reinterpret_cast<T*>(host_.data() + used_),
        reinterpret_cast<T*>(device_.as<std::byte>() + used_),
        count};
    used_ += (bytes + kAlignment - 1) / kAlignment * kAlignment;
    return array;
  }

  // Copies all that was taken, on the stream.
  absl::Status ToDevice(cudaStream_t stream) const {
    return CudaStatus(cudaMemcpyAsync(device_.data(),
                                      host_.data(),
                                      static_cast<size_t>(Bounded()),
                                      cudaMemcpyHostToDevice,
                                      stream),
                      "a plan's way to the card");
  }
  absl::Status ToHost(cudaStream_t stream) const {
    return CudaStatus(cudaMemcpyAsync(host_.data(),
                                      device_.data(),
                                      static_cast<size_t>(Bounded()),
                                      cudaMemcpyDeviceToHost,
                                      stream),
                      "a step's results' way from the card");
  }

 private:
  static constexpr int64_t kAlignment = 64;

  int64_t Bounded() const { return std::min(used_, device_.bytes()); }

  PinnedMemory host_;
  DeviceMemory device_;
  int64_t used_ = 0;
};

}  // namespace weir::engine
