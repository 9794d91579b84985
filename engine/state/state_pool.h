// SPDX-License-Identifier: Apache-2.0
//
// The state of every live session: one slot each, one slab per tensor.
//
// The pool is sized at start and never grows. A session's state never moves:
// kernels take a slab's base address, a stride and an array of slot numbers.
// A freed slot is filled with a marked NaN, so that a read of it shows; an
// acquired one reads as zero, or as what its tensors begin with.
//
// Threads: not thread-safe; the step thread owns the pool.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "engine/state/state_spec.h"

namespace weir::engine {

// The bits of the NaN that fills free slots: quiet, with a payload that no
// arithmetic makes.
inline constexpr uint32_t kFreedSlotBits = 0x7fedfeedu;

// Bytes that one slot takes in a pool: those of the state, and the padding that
// begins each tensor at a cache line.
int64_t SlotBytes(const StateSpec& spec);

class StatePool {
 public:
  struct Options {
    int32_t slots = 0;
    // Whether freed slots are filled with kFreedSlotBits.
    bool mark_freed = true;
  };

  // INVALID_ARGUMENT for a spec this pool cannot hold (a kind other than
  // FIXED, a start other than ZERO, an empty shape); RESOURCE_EXHAUSTED with
  // the sizes if the memory cannot be had.
  static absl::StatusOr<std::unique_ptr<StatePool>> Create(StateSpec spec,
                                                           Options options);
  ~StatePool();
  StatePool(const StatePool&) = delete;
  StatePool& operator=(const StatePool&) = delete;

  // Takes a free slot, each tensor at its fill, zero unless said otherwise.
  // RESOURCE_EXHAUSTED if there is none.
  absl::StatusOr<int32_t> Acquire();
  // REQUIRES: `slot` is held.
  void Release(int32_t slot);

  // Copies the state of `from` to `to`, bit by bit. REQUIRES: both are held.
  void Copy(int32_t from, int32_t to);
  // Copies a state to or from host memory, tensor by tensor in the order of
  // the spec. REQUIRES: `slot` is held. INVALID_ARGUMENT unless `host` has
  // spec().bytes() bytes.
  absl::Status Save(int32_t slot, std::span<std::byte> host) const;
  absl::Status Load(std::span<const std::byte> host, int32_t slot);

  // Address of slot 0's part of tensor `index`; slot s lies s * stride(index)
  // floats on.
  float* base(size_t index) { return slabs_[index]; }
  const float* base(size_t index) const { return slabs_[index]; }
  int64_t stride(size_t index) const { return strides_[index]; }

  const StateSpec& spec() const { return spec_; }
  int32_t slots() const { return options_.slots; }
  int32_t slots_free() const { return static_cast<int32_t>(free_.size()); }
  bool held(int32_t slot) const;

 private:
  StatePool(StateSpec spec, Options options);

  // Constant after construction.
  const StateSpec spec_;
  const Options options_;
  std::vector<float*> slabs_;     // by tensor, mapped on first touch
  std::vector<int64_t> strides_;  // by tensor, floats
  // Owned by the step thread.
  std::vector<int32_t> free_;  // a stack: last out, first in
  std::vector<bool> held_;     // by slot
};

}  // namespace weir::engine
