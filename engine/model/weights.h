// SPDX-License-Identifier: Apache-2.0
//
// Brings a checkpoint's tensors to where a model wants them. The set of
// tensors is exact: one that is missing, one too many or one of another shape
// is refused by name, before memory is taken.
//
// Threads: none.
#pragma once

#include <string>
#include <vector>

#include "absl/status/status.h"
#include "engine/mixers/decoder_spec.h"
#include "engine/model/checkpoint.h"

namespace weir::engine {

// MISSING_TENSOR, WRONG_SHAPE, EXTRA_TENSOR.
absl::Status CheckWeights(const Checkpoint& checkpoint,
                          const std::vector<WeightSlot>& slots,
                          const std::vector<UnusedTensor>& unused);

// Takes the memory and reads the values. REQUIRES: CheckWeights was OK.
absl::Status LoadWeights(const Checkpoint& checkpoint,
                         const std::vector<WeightSlot>& slots,
                         bool allow_nonfinite);

}  // namespace weir::engine
