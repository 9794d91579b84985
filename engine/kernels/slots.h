// SPDX-License-Identifier: Apache-2.0
//
// What two states joined by a softmax over slots have around their recurrences:
// how strongly a token is written into each slot, and the weights by which the
// slots are read.
//
// Threads: none of their own. A call does tokens [begin, end); disjoint ranges
// may run in parallel.
#pragma once

#include <cstdint>

#include "engine/kernels/recurrence.h"

namespace weir::engine {

// Gated slots (arXiv 2409.07146), per slot:
//   d = sigmoid(f)^scale     log2_decay = log2(d)     write = 1 - d
struct SlotGateArgs {
  int32_t width = 0;  // of all heads' slots
  TokenRows f;        // [T][width]
  float scale = 1;
  float* log2_decay = nullptr;  // [T, width], contiguous; not f
  float* write = nullptr;       // likewise
};
// The definition: fp64.
void SlotGatesReference(const SlotGateArgs& args, int64_t begin, int64_t end);
void SlotGates(const SlotGateArgs& args, int64_t begin, int64_t end);

// x [T, heads, slots], contiguous: each head's scores to weights that sum to
// one, in place. Exponents are taken below the head's greatest score. A score
// that is not finite makes its head's weights NaN.
struct SlotSoftmaxArgs {
  int32_t heads = 0;
  int32_t slots = 0;
  float* x = nullptr;
};
void SlotSoftmaxReference(const SlotSoftmaxArgs& args,
                          int64_t begin,
                          int64_t end);
void SlotSoftmax(const SlotSoftmaxArgs& args, int64_t begin, int64_t end);

}  // namespace weir::engine
