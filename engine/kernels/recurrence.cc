// SPDX-License-Identifier: Apache-2.0
#include "engine/kernels/recurrence.h"

#include <cstdlib>
#include <memory>
#include <new>

#include "engine/kernels/kernel_target.h"

namespace weir::engine {
namespace {

// Grows to the largest shape that its thread has seen and stays.
class Scratch {
 public:
  float* AtLeast(int64_t floats) {
    if (floats > floats_) {
      constexpr size_t kLineBytes = 64;
      const size_t bytes =
          (static_cast<size_t>(floats) * sizeof(float) + kLineBytes - 1) /
          kLineBytes * kLineBytes;
      data_.reset(static_cast<float*>(std::aligned_alloc(kLineBytes, bytes)));
      if (data_ == nullptr) throw std::bad_alloc();
      floats_ = floats;
    }
    return data_.get();
  }

 private:
  struct Free {
    void operator()(float* data) const { std::free(data); }
  };
  std::unique_ptr<float[], Free> data_;
  int64_t floats_ = 0;
};

// What a state can hold of its rest; the rest is none from there on.
void TakeInRest(const RecurrenceArgs& args, int64_t begin, int64_t end) {
  const int64_t floats = int64_t{args.key_dim} * args.value_dim;
  for (int64_t item = begin; item < end; ++item) {
    const int64_t row = item / args.heads;
    const int32_t tokens = args.row_starts[row + 1] - args.row_starts[row];
    if (args.slots[row] < 0 || tokens == 0) continue;
    const int64_t at = item % args.heads * floats;
    float* state = args.state + args.slots[row] * args.state_stride + at;
    float* rest = args.rest + args.slots[row] * args.rest_stride + at;
    for (int64_t i = 0; i < floats; ++i) state[i] += rest[i];
    for (int64_t i = 0; i < floats; ++i) rest[i] = 0;
  }
}

}  // namespace

void RecurrenceRecurrent(const RecurrenceArgs& args,
                         int64_t begin,
                         int64_t end) {
  Kernels().recurrent(args, begin, end);
}

void RecurrenceChunk(const RecurrenceArgs& args, int64_t begin, int64_t end) {
  thread_local Scratch scratch;
  if (args.rest != nullptr) TakeInRest(args, begin, end);
  const KernelTable& kernels = Kernels();
  kernels.chunk(
      args, begin, end, scratch.AtLeast(kernels.chunk_scratch_floats(args)));
}

const char* CpuKernelTarget() { return Kernels().name; }

}  // namespace weir::engine
