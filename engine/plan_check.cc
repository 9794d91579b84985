// SPDX-License-Identifier: Apache-2.0
#include "engine/plan_check.h"

#include <algorithm>
#include <string>

#include "absl/strings/str_cat.h"
#include "base/status_macros.h"

namespace weir::engine {

absl::Status PlanCheck::Check(const Plan& plan,
                              uint32_t vocabulary,
                              absl::FunctionRef<bool(int32_t slot)> held) {
  std::fill(planned_.begin(), planned_.end(), false);
  for (size_t i = 0; i < plan.rows.size(); ++i) {
    WEIR_RETURN_IF_ERROR(CheckRow(i, plan.rows[i], vocabulary, held));
  }
  return absl::OkStatus();
}

absl::Status PlanCheck::CheckRow(size_t index,
                                 const Row& row,
                                 uint32_t vocabulary,
                                 absl::FunctionRef<bool(int32_t slot)> held) {
  const auto refuse = [index](const std::string& what) {
    return absl::InvalidArgumentError(
        absl::StrCat("row ", index, " of the plan: ", what));
  };
  if (!held(row.slot)) {
    return refuse(absl::StrCat("slot ", row.slot, " is not held"));
  }
  if (planned_[static_cast<size_t>(row.slot)]) {
    return refuse(absl::StrCat("slot ", row.slot, " stands twice"));
  }
  planned_[static_cast<size_t>(row.slot)] = true;
  if (row.tokens.empty() && !row.sample.has_value()) {
    return refuse("it has no tokens and draws none");
  }
  if (row.tokens.empty() && row.first) {
    return refuse("a state that has consumed nothing predicts nothing");
  }
  for (const uint32_t token : row.tokens) {
    if (token >= vocabulary) {
      return refuse(absl::StrCat(
          "token ", token, " is beyond the vocabulary of ", vocabulary));
    }
  }
  return absl::OkStatus();
}

}  // namespace weir::engine
