// SPDX-License-Identifier: Apache-2.0
//
// Two states joined by a softmax over M slots (arXiv 2110.02488). Per head:
//
//   K <- K Diag(d) + k e^T     p = softmax(K^T q)      K: [K, M]
//   V <- Diag(d) V + f v^T     o = V^T p               V: [M, V]
//
// Both are recurrences of kernels/recurrence.h: the first writes e where others
// write a value, the second reads with p. d is one decay a slot, or one a head.
//
// Threads: as mixer.h.
#pragma once

#include <cstdint>
#include <vector>

#include "engine/mixers/mixer.h"

namespace weir::engine {

struct SlotShape {
  int32_t heads = 0;
  int32_t key_dim = 0;    // K
  int32_t value_dim = 0;  // V
  int32_t slots = 0;      // M, at most kChannelsMax
};

// "keys" [heads, M, K] and "values" [heads, V, M].
std::vector<StateTensor> SlotStates(const SlotShape& shape);

struct SlotArgs {
  SlotShape shape;
  TokenRows q;                // [T][heads, K], scaled
  TokenRows k;                // [T][heads, K]
  TokenRows v;                // [T][heads, V]
  TokenRows key_write;        // [T][heads, M], e
  TokenRows value_write;      // [T][heads, M], f
  bool decay_by_slot = true;  // d is [heads, M], else [heads]
  TokenRows log2_decay;
  float* weights = nullptr;  // [T, heads, M], contiguous, p
  float* out = nullptr;      // [T, heads, V], contiguous
};
// The states are the first two tensors of input.state.
void RunSlots(const MixerInput& input, const SlotArgs& args);

}  // namespace weir::engine
