// SPDX-License-Identifier: Apache-2.0
#include "engine/state/state_pool.h"

#include <sys/mman.h>

#include <algorithm>
#include <cstring>
#include <string>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/check.h"

namespace weir::engine {
namespace {

// A cache line, and the widest vector load.
constexpr int64_t kAlignmentFloats = 16;
constexpr size_t kHugePageBytes = size_t{2} << 20;
// Sums of sizes below this cannot overflow.
constexpr int64_t kBytesMax = int64_t{1} << 50;

int64_t StrideOf(const StateTensor& tensor) {
  return (tensor.elements() + kAlignmentFloats - 1) / kAlignmentFloats *
         kAlignmentFloats;
}

absl::Status CheckTensor(const StateTensor& tensor) {
  if (tensor.kind != StateKind::kFixed) {
    return absl::InvalidArgumentError(absl::StrCat(
        "state tensor ", tensor.name, ": only FIXED ones can be held"));
  }
  if (tensor.start != StateStart::kZero) {
    return absl::InvalidArgumentError(absl::StrCat(
        "state tensor ", tensor.name, ": only ZERO starts can be held"));
  }
  const int64_t elements = tensor.elements();
  if (elements <= 0 || elements > kBytesMax) {
    return absl::InvalidArgumentError(absl::StrCat("state tensor ",
                                                   tensor.name,
                                                   ": its shape is empty, ",
                                                   "negative or too large"));
  }
  return absl::OkStatus();
}

}  // namespace

int64_t SlotBytes(const StateSpec& spec) {
  int64_t bytes = 0;
  for (const StateTensor& tensor : spec.tensors) {
    bytes += StrideOf(tensor) * static_cast<int64_t>(sizeof(float));
  }
  return bytes;
}

absl::StatusOr<std::unique_ptr<StatePool>> StatePool::Create(StateSpec spec,
                                                             Options options) {
  if (options.slots < 1) {
    return absl::InvalidArgumentError(
        absl::StrCat("a pool needs at least one slot, not ", options.slots));
  }
  if (spec.tensors.empty()) {
    return absl::InvalidArgumentError("a state needs at least one tensor");
  }
  int64_t slot_bytes = 0;
  for (const StateTensor& tensor : spec.tensors) {
    if (absl::Status status = CheckTensor(tensor); !status.ok()) return status;
    slot_bytes += StrideOf(tensor) * static_cast<int64_t>(sizeof(float));
    if (slot_bytes > kBytesMax / options.slots) {
      return absl::ResourceExhaustedError(absl::StrCat("no memory for ",
                                                       options.slots,
                                                       " slots of more than ",
                                                       slot_bytes,
                                                       " bytes"));
    }
  }

  std::unique_ptr<StatePool> pool(new StatePool(std::move(spec), options));
  for (const StateTensor& tensor : pool->spec_.tensors) {
    const int64_t stride = StrideOf(tensor);
    const size_t bytes =
        static_cast<size_t>(stride) * options.slots * sizeof(float);
    void* slab = mmap(nullptr,
                      bytes,
                      PROT_READ | PROT_WRITE,
                      MAP_PRIVATE | MAP_ANONYMOUS,
                      -1,
                      0);
    if (slab == MAP_FAILED) {
      return absl::ResourceExhaustedError(absl::StrCat("no memory for ",
                                                       options.slots,
                                                       " slots of ",
                                                       slot_bytes,
                                                       " bytes: state tensor ",
                                                       tensor.name,
                                                       " needs ",
                                                       bytes,
                                                       " bytes"));
    }
    // A wish: without it a step over many sessions misses the TLB at every
    // page.
    if (bytes >= kHugePageBytes) madvise(slab, bytes, MADV_HUGEPAGE);
    pool->slabs_.push_back(static_cast<float*>(slab));
    pool->strides_.push_back(stride);
  }
  return pool;
}

StatePool::StatePool(StateSpec spec, Options options)
    : spec_(std::move(spec)),
      options_(options),
      held_(static_cast<size_t>(options.slots), false) {
  free_.reserve(static_cast<size_t>(options.slots));
  // The lowest slot is taken first, so that few sessions touch few pages.
  for (int32_t slot = options.slots - 1; slot >= 0; --slot) {
    free_.push_back(slot);
  }
}

StatePool::~StatePool() {
  for (size_t i = 0; i < slabs_.size(); ++i) {
    munmap(slabs_[i],
           static_cast<size_t>(strides_[i]) * options_.slots * sizeof(float));
  }
}

absl::StatusOr<int32_t> StatePool::Acquire() {
  if (free_.empty()) {
    return absl::ResourceExhaustedError(
        absl::StrCat("all ", options_.slots, " slots are held"));
  }
  const int32_t slot = free_.back();
  free_.pop_back();
  held_[slot] = true;
  for (size_t i = 0; i < slabs_.size(); ++i) {
    float* to = slabs_[i] + slot * strides_[i];
    std::memset(to, 0, strides_[i] * sizeof(float));
    const StateTensor& tensor = spec_.tensors[i];
    if (tensor.fill != 0) std::fill_n(to, tensor.elements(), tensor.fill);
  }
  return slot;
}

void StatePool::Release(int32_t slot) {
  WEIR_CHECK(held(slot));
  held_[slot] = false;
  free_.push_back(slot);
  if (!options_.mark_freed) return;
  for (size_t i = 0; i < slabs_.size(); ++i) {
    // Filled as integers: a NaN's payload need not survive a float register.
    auto* words = reinterpret_cast<uint32_t*>(slabs_[i] + slot * strides_[i]);
    std::fill_n(words, strides_[i], kFreedSlotBits);
  }
}

void StatePool::Copy(int32_t from, int32_t to) {
  WEIR_CHECK(held(from));
  WEIR_CHECK(held(to));
  if (from == to) return;
  for (size_t i = 0; i < slabs_.size(); ++i) {
    std::memcpy(slabs_[i] + to * strides_[i],
                slabs_[i] + from * strides_[i],
                strides_[i] * sizeof(float));
  }
}

absl::Status StatePool::Save(int32_t slot, std::span<std::byte> host) const {
  WEIR_CHECK(held(slot));
  if (static_cast<int64_t>(host.size()) != spec_.bytes()) {
    return absl::InvalidArgumentError(absl::StrCat(
        "a state has ", spec_.bytes(), " bytes, not ", host.size()));
  }
  std::byte* to = host.data();
  for (size_t i = 0; i < slabs_.size(); ++i) {
    const size_t bytes = spec_.tensors[i].elements() * sizeof(float);
    std::memcpy(to, slabs_[i] + slot * strides_[i], bytes);
    to += bytes;
  }
  return absl::OkStatus();
}

absl::Status StatePool::Load(std::span<const std::byte> host, int32_t slot) {
  WEIR_CHECK(held(slot));
  if (static_cast<int64_t>(host.size()) != spec_.bytes()) {
    return absl::InvalidArgumentError(absl::StrCat(
        "a state has ", spec_.bytes(), " bytes, not ", host.size()));
  }
  const std::byte* from = host.data();
  for (size_t i = 0; i < slabs_.size(); ++i) {
    const size_t bytes = spec_.tensors[i].elements() * sizeof(float);
    std::memcpy(slabs_[i] + slot * strides_[i], from, bytes);
    from += bytes;
  }
  return absl::OkStatus();
}

bool StatePool::held(int32_t slot) const {
  return slot >= 0 && slot < options_.slots && held_[slot];
}

}  // namespace weir::engine
