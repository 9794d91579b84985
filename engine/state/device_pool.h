// SPDX-License-Identifier: Apache-2.0
//
// The states of live sessions in a GPU's memory: one slot each, one slab per
// tensor, allocated once at start.
//
// A state never moves: kernels take a slab's base address, a stride and an
// array of slot numbers. Acquiring a slot touches no device memory: what a slot
// has consumed is counted here, and kernels read a slot of count 0 as zero,
// whatever it holds. One slot more than asked for is scratch, for a kernel that
// needs an address where a row is padding; those that take a slot of -1 form
// none.
//
// Threads: not thread-safe; the step thread owns the pool, and the stream it
// gives orders the copies.
#pragma once

#include <cuda_runtime_api.h>

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "engine/kernels/cuda/decode.h"

namespace weir::engine {

// One tensor of a session's state on the device.
struct DeviceTensor {
  std::string name;            // for example "layers.3.recurrent"
  std::vector<int64_t> shape;  // one session's, without the slot axis
  StateNumber number = StateNumber::kFloat32;
};

// Bytes that one slot takes, each tensor from a boundary of 256 bytes on.
int64_t DeviceSlotBytes(const std::vector<DeviceTensor>& tensors);

class DevicePool {
 public:
  // INVALID_ARGUMENT for tensors without elements or no slot;
  // RESOURCE_EXHAUSTED with the sizes if the card has not the memory.
  static absl::StatusOr<std::unique_ptr<DevicePool>> Create(
      std::vector<DeviceTensor> tensors, int32_t slots);
  ~DevicePool();
  DevicePool(const DevicePool&) = delete;
  DevicePool& operator=(const DevicePool&) = delete;

  // Takes a free slot, which has consumed nothing. RESOURCE_EXHAUSTED if there
  // is none.
  absl::StatusOr<int32_t> Acquire();
  // REQUIRES: `slot` is held.
  void Release(int32_t slot);

  // Tokens that a slot has consumed, and that it consumed `tokens` more.
  // REQUIRES: `slot` is held.
  uint64_t consumed(int32_t slot) const;
  void Consume(int32_t slot, uint64_t tokens);
  // As kernels want it: 0 for 0 alone, equal modulo every width of a
  // convolution, within 32 bits.
  static uint32_t ConsumedMark(uint64_t consumed);

  // Copies a state, bit by bit, on the stream. REQUIRES: both are held.
  absl::Status Copy(int32_t from, int32_t to, cudaStream_t stream);
  // Bytes of a saved state: the tensors in order, then the count.
  int64_t saved_bytes() const { return saved_bytes_; }
  // Copies a state to or from host memory and waits for it. REQUIRES: `slot` is
  // held. INVALID_ARGUMENT unless `host` has saved_bytes().
  absl::Status Save(int32_t slot,
                    std::span<std::byte> host,
                    cudaStream_t stream) const;
  absl::Status Load(std::span<const std::byte> host,
                    int32_t slot,
                    cudaStream_t stream);

  // Address of slot 0's part of tensor `index`; slot s lies s * stride(index)
  // numbers on.
  void* base(size_t index) const { return slabs_[index].base; }
  int64_t stride(size_t index) const { return slabs_[index].stride; }

  int32_t slots() const { return slots_; }
  int32_t slots_free() const { return static_cast<int32_t>(free_.size()); }
  int32_t scratch_slot() const { return slots_; }
  bool held(int32_t slot) const;

 private:
  struct Slab {
    std::byte* base = nullptr;
    int64_t stride = 0;        // numbers
    int64_t stride_bytes = 0;  // of a slot
    int64_t bytes = 0;         // of a slot's tensor, without padding
  };

  DevicePool(std::vector<DeviceTensor> tensors, int32_t slots);

  // Constant after Create.
  const std::vector<DeviceTensor> tensors_;
  const int32_t slots_;
  std::vector<Slab> slabs_;  // by tensor
  int64_t saved_bytes_ = 0;
  // Owned by the step thread.
  std::vector<int32_t> free_;  // a stack: last out, first in
  std::vector<bool> held_;     // by slot
  std::vector<uint64_t> consumed_;
};

}  // namespace weir::engine
