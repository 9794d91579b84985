// SPDX-License-Identifier: Apache-2.0
#include "engine/mixers/parallel.h"

#include <ATen/Parallel.h>

#include <algorithm>

namespace weir::engine {
namespace {

// Waking a sleeping thread costs some microseconds, in which one core touches
// about this many floats.
constexpr int64_t kGrainFloats = 32768;

}  // namespace

void ParallelFor(int64_t count,
                 int64_t cost,
                 absl::FunctionRef<void(int64_t, int64_t)> body) {
  if (count <= 0) return;
  const int64_t grain =
      std::max<int64_t>(1, kGrainFloats / std::max<int64_t>(1, cost));
  if (count <= grain) {
    body(0, count);
    return;
  }
  at::parallel_for(
      0, count, grain, [&](int64_t begin, int64_t end) { body(begin, end); });
}

}  // namespace weir::engine
