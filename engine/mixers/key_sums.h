// SPDX-License-Identifier: Apache-2.0
//
// What a mixer's normaliser needs: sums over all tokens so far, and the
// division of each head by its own.
//
// Threads: as mixer.h.
#pragma once

#include <cstdint>

#include "engine/kernels/running_sum.h"
#include "engine/mixers/mixer.h"

namespace weir::engine {

// Runs the sums over rows and heads. Fills in the fields that come from the
// batch.
void RunRunningSum(const Batch& batch, RunningSumArgs args);

struct HeadDivision {
  int64_t tokens = 0;
  int32_t heads = 0;
  int32_t dim = 0;  // of one head
  float eps = 0;
};
// x / (sums + eps), per head. sums [T, heads], x [T, heads, dim], contiguous.
void DivideHeads(const HeadDivision& shape, const float* sums, float* x);

}  // namespace weir::engine
