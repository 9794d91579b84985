// SPDX-License-Identifier: Apache-2.0
//
// fp32 memory for weights and workspaces: zeroed, aligned to a page, on huge
// pages where it is large. Its size is known first and the memory taken later,
// so that a model's shapes can be checked before anything is allocated.
//
// Threads: as a plain array.
#pragma once

#include <cstdint>

#include "absl/status/status.h"

namespace weir::engine {

class Buffer {
 public:
  explicit Buffer(int64_t floats = 0) : size_(floats) {}
  ~Buffer();
  Buffer(Buffer&& other) noexcept;
  Buffer& operator=(Buffer&& other) noexcept;

  // RESOURCE_EXHAUSTED with the size. A second call does nothing.
  absl::Status Allocate();
  // Gives the memory back. The size stays.
  void Release();

  float* data() { return data_; }
  const float* data() const { return data_; }
  int64_t size() const { return size_; }

 private:
  int64_t size_;
  float* data_ = nullptr;
};

}  // namespace weir::engine
