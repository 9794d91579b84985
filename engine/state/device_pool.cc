// SPDX-License-Identifier: Apache-2.0
#include "engine/state/device_pool.h"

#include <algorithm>
#include <cstring>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/check.h"

namespace weir::engine {
namespace {

constexpr int64_t kAlignmentBytes = 256;
// Sums of sizes below this cannot overflow.
constexpr int64_t kBytesMax = int64_t{1} << 50;
// Every width of a convolution, 1 to 8, divides it.
constexpr uint64_t kMarkPeriod = 840;
constexpr uint64_t kMarkWrap = kMarkPeriod << 20;

int64_t NumberBytes(StateNumber number) {
  return number == StateNumber::kFloat32 ? 4 : 2;
}

// Of one session's tensor; 0 if its shape is empty, negative or too large.
int64_t TensorBytes(const DeviceTensor& tensor) {
  int64_t bytes = NumberBytes(tensor.number);
  for (const int64_t extent : tensor.shape) {
    if (extent < 1 || extent > kBytesMax / bytes) return 0;
    bytes *= extent;
  }
  return tensor.shape.empty() ? 0 : bytes;
}

int64_t StrideBytes(const DeviceTensor& tensor) {
  return (TensorBytes(tensor) + kAlignmentBytes - 1) / kAlignmentBytes *
         kAlignmentBytes;
}

absl::Status Failed(const char* what, cudaError_t status) {
  return absl::InternalError(
      absl::StrCat(what, ": ", cudaGetErrorString(status)));
}

}  // namespace

int64_t DeviceSlotBytes(const std::vector<DeviceTensor>& tensors) {
  int64_t bytes = 0;
  for (const DeviceTensor& tensor : tensors) bytes += StrideBytes(tensor);
  return bytes;
}

absl::StatusOr<std::unique_ptr<DevicePool>> DevicePool::Create(
    std::vector<DeviceTensor> tensors, int32_t slots) {
  if (slots < 1) {
    return absl::InvalidArgumentError(
        absl::StrCat("a pool needs at least one slot, not ", slots));
  }
  if (tensors.empty()) {
    return absl::InvalidArgumentError("a state needs at least one tensor");
  }
  for (const DeviceTensor& tensor : tensors) {
    if (TensorBytes(tensor) > 0) continue;
    return absl::InvalidArgumentError(
        absl::StrCat("state tensor ",
                     tensor.name,
                     ": its shape is empty, negative or too large"));
  }
  const int64_t slot_bytes = DeviceSlotBytes(tensors);
  std::unique_ptr<DevicePool> pool(new DevicePool(std::move(tensors), slots));
  for (Slab& slab : pool->slabs_) {
    const int64_t bytes = slab.stride_bytes * (int64_t{slots} + 1);
    void* base = nullptr;
    const cudaError_t status = cudaMalloc(&base, static_cast<size_t>(bytes));
    if (status != cudaSuccess) {
      // The error is told; it must not be found again by the next launch.
      cudaGetLastError();
      size_t free_bytes = 0;
      size_t card_bytes = 0;
      cudaMemGetInfo(&free_bytes, &card_bytes);
      return absl::ResourceExhaustedError(
          absl::StrCat("no device memory for ",
                       slots,
                       " slots of ",
                       slot_bytes,
                       " bytes: of the card's ",
                       card_bytes,
                       " bytes ",
                       free_bytes,
                       " are free (",
                       cudaGetErrorString(status),
                       "); give it fewer slots or a smaller pool"));
    }
    slab.base = static_cast<std::byte*>(base);
  }
  return pool;
}

DevicePool::DevicePool(std::vector<DeviceTensor> tensors, int32_t slots)
    : tensors_(std::move(tensors)),
      slots_(slots),
      saved_bytes_(sizeof(uint64_t)),
      held_(static_cast<size_t>(slots), false),
      consumed_(static_cast<size_t>(slots), 0) {
  for (const DeviceTensor& tensor : tensors_) {
    Slab slab;
    slab.bytes = TensorBytes(tensor);
    slab.stride_bytes = StrideBytes(tensor);
    slab.stride = slab.stride_bytes / NumberBytes(tensor.number);
    saved_bytes_ += slab.bytes;
    slabs_.push_back(slab);
  }
  free_.reserve(static_cast<size_t>(slots));
  for (int32_t slot = slots - 1; slot >= 0; --slot) free_.push_back(slot);
}

DevicePool::~DevicePool() {
  for (const Slab& slab : slabs_) cudaFree(slab.base);
}

absl::StatusOr<int32_t> DevicePool::Acquire() {
  if (free_.empty()) {
    return absl::ResourceExhaustedError(
        absl::StrCat("all ", slots_, " slots are held"));
  }
  const int32_t slot = free_.back();
  free_.pop_back();
  held_[slot] = true;
  consumed_[slot] = 0;
  return slot;
}

void DevicePool::Release(int32_t slot) {
  WEIR_CHECK(held(slot));
  held_[slot] = false;
  free_.push_back(slot);
}

bool DevicePool::held(int32_t slot) const {
  return slot >= 0 && slot < slots_ && held_[slot];
}

uint64_t DevicePool::consumed(int32_t slot) const {
  WEIR_CHECK(held(slot));
  return consumed_[slot];
}

void DevicePool::Consume(int32_t slot, uint64_t tokens) {
  WEIR_CHECK(held(slot));
  consumed_[slot] += tokens;
}

uint32_t DevicePool::ConsumedMark(uint64_t consumed) {
  if (consumed < kMarkWrap) return static_cast<uint32_t>(consumed);
  return static_cast<uint32_t>(kMarkWrap + consumed % kMarkPeriod);
}

absl::Status DevicePool::Copy(int32_t from, int32_t to, cudaStream_t stream) {
  WEIR_CHECK(held(from) && held(to));
  for (const Slab& slab : slabs_) {
    const cudaError_t status =
        cudaMemcpyAsync(slab.base + to * slab.stride_bytes,
                        slab.base + from * slab.stride_bytes,
                        static_cast<size_t>(slab.bytes),
                        cudaMemcpyDeviceToDevice,
                        stream);
    if (status != cudaSuccess) return Failed("a copy of a state", status);
  }
  consumed_[to] = consumed_[from];
  return absl::OkStatus();
}

absl::Status DevicePool::Save(int32_t slot,
                              std::span<std::byte> host,
                              cudaStream_t stream) const {
  WEIR_CHECK(held(slot));
  if (std::ssize(host) != saved_bytes_) {
    return absl::InvalidArgumentError(absl::StrCat(
        "a state takes ", saved_bytes_, " bytes, not ", host.size()));
  }
  std::byte* to = host.data();
  for (const Slab& slab : slabs_) {
    const cudaError_t status =
        cudaMemcpyAsync(to,
                        slab.base + slot * slab.stride_bytes,
                        static_cast<size_t>(slab.bytes),
                        cudaMemcpyDeviceToHost,
                        stream);
    if (status != cudaSuccess) return Failed("saving a state", status);
    to += slab.bytes;
  }
  std::memcpy(to, &consumed_[slot], sizeof(uint64_t));
  const cudaError_t status = cudaStreamSynchronize(stream);
  if (status != cudaSuccess) return Failed("saving a state", status);
  return absl::OkStatus();
}

absl::Status DevicePool::Load(std::span<const std::byte> host,
                              int32_t slot,
                              cudaStream_t stream) {
  WEIR_CHECK(held(slot));
  if (std::ssize(host) != saved_bytes_) {
    return absl::InvalidArgumentError(absl::StrCat(
        "a state takes ", saved_bytes_, " bytes, not ", host.size()));
  }
  const std::byte* from = host.data();
  for (const Slab& slab : slabs_) {
    const cudaError_t status =
        cudaMemcpyAsync(slab.base + slot * slab.stride_bytes,
                        from,
                        static_cast<size_t>(slab.bytes),
                        cudaMemcpyHostToDevice,
                        stream);
    if (status != cudaSuccess) return Failed("loading a state", status);
    from += slab.bytes;
  }
  std::memcpy(&consumed_[slot], from, sizeof(uint64_t));
  const cudaError_t status = cudaStreamSynchronize(stream);
  if (status != cudaSuccess) return Failed("loading a state", status);
  return absl::OkStatus();
}

}  // namespace weir::engine
