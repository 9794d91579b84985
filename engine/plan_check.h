// SPDX-License-Identifier: Apache-2.0
//
// Whether a plan keeps to the rules of engine.h.
//
// Threads: the step thread.
#pragma once

#include <cstdint>
#include <vector>

#include "absl/functional/function_ref.h"
#include "absl/status/status.h"
#include "engine/engine.h"

namespace weir::engine {

class PlanCheck {
 public:
  explicit PlanCheck(int32_t slots) : planned_(static_cast<size_t>(slots)) {}

  // INVALID_ARGUMENT with the row and what is wrong with it.
  absl::Status Check(const Plan& plan,
                     uint32_t vocabulary,
                     absl::FunctionRef<bool(int32_t slot)> held);
  // Whether the plan that was checked last has a row of the slot.
  bool planned(int32_t slot) const {
    return planned_[static_cast<size_t>(slot)];
  }

 private:
  absl::Status CheckRow(size_t index,
                        const Row& row,
                        uint32_t vocabulary,
                        absl::FunctionRef<bool(int32_t slot)> held);

  std::vector<bool> planned_;  // by slot
};

}  // namespace weir::engine
