// SPDX-License-Identifier: Apache-2.0
//
// An array in device memory, for tests and benchmarks: copied there at its
// making and back when asked for.
//
// Threads: one.
#pragma once

#include <cuda_runtime_api.h>

#include <cstdio>
#include <cstdlib>
#include <span>
#include <vector>

namespace weir::gpu {

// Ends the process: a test cannot go on after an error of the device.
inline void Must(cudaError_t status, const char* what) {
  if (status == cudaSuccess) return;
  std::fprintf(stderr, "%s: %s\n", what, cudaGetErrorString(status));
  std::abort();
}

template <typename T>
class DeviceArray {
 public:
  explicit DeviceArray(size_t count) : count_(count) {
    Must(cudaMalloc(reinterpret_cast<void**>(&data_), bytes() + 1),
         "cudaMalloc");
  }
  explicit DeviceArray(std::span<const T> host) : DeviceArray(host.size()) {
    Set(host);
  }
  ~DeviceArray() { cudaFree(data_); }
  DeviceArray(const DeviceArray&) = delete;
  DeviceArray& operator=(const DeviceArray&) = delete;

  T* data() { return data_; }
  const T* data() const { return data_; }
  size_t size() const { return count_; }
  size_t bytes() const { return count_ * sizeof(T); }

  void Set(std::span<const T> host) {
    Must(cudaMemcpy(data_, host.data(), bytes(), cudaMemcpyHostToDevice),
         "cudaMemcpy to the device");
  }
  // What the device has when all that was launched is done.
  std::vector<T> Get() const {
    std::vector<T> host(count_);
    Must(cudaMemcpy(host.data(), data_, bytes(), cudaMemcpyDeviceToHost),
         "cudaMemcpy from the device");
    return host;
  }

 private:
  const size_t count_;
  T* data_ = nullptr;
};

}  // namespace weir::gpu
