// SPDX-License-Identifier: Apache-2.0
#include "engine/mixers/buffer.h"

#include <sys/mman.h>

#include <cstddef>
#include <utility>

#include "absl/strings/str_cat.h"

namespace weir::engine {
namespace {

constexpr size_t kHugePageBytes = size_t{2} << 20;

size_t BytesOf(int64_t floats) {
  return static_cast<size_t>(floats) * sizeof(float);
}

}  // namespace

Buffer::~Buffer() { Release(); }

void Buffer::Release() {
  if (data_ != nullptr) munmap(data_, BytesOf(size_));
  data_ = nullptr;
}

Buffer::Buffer(Buffer&& other) noexcept
    : size_(other.size_), data_(std::exchange(other.data_, nullptr)) {}

Buffer& Buffer::operator=(Buffer&& other) noexcept {
  std::swap(size_, other.size_);
  std::swap(data_, other.data_);
  return *this;
}

absl::Status Buffer::Allocate() {
  if (data_ != nullptr || size_ == 0) return absl::OkStatus();
  const size_t bytes = BytesOf(size_);
  void* memory = mmap(nullptr,
                      bytes,
                      PROT_READ | PROT_WRITE,
                      MAP_PRIVATE | MAP_ANONYMOUS,
                      -1,
                      0);
  if (memory == MAP_FAILED) {
    return absl::ResourceExhaustedError(
        absl::StrCat("no memory for ", bytes, " bytes of weights"));
  }
  // A wish: without it a pass over the weights misses the TLB at every page.
  if (bytes >= kHugePageBytes) madvise(memory, bytes, MADV_HUGEPAGE);
  data_ = static_cast<float*>(memory);
  return absl::OkStatus();
}

}  // namespace weir::engine
