// SPDX-License-Identifier: Apache-2.0
#include "service/pace.h"

#include <algorithm>

namespace weir::service {
namespace {

// From this many tokens on a pass over the weights is a small part of a step.
constexpr int64_t kTokensEnough = 256;
// How fast the pace follows steps that are slower than it.
constexpr double kSlowerAtMost = 1.1;
constexpr double kAfterRefusal = 0.95;

}  // namespace

void Pace::OnStep(const StepStats& step) {
  // Where a step may not have as many, what waits is fed in steps of the
  // budget, and one of half of it says what they cost, nearly.
  const int64_t enough =
      std::min(kTokensEnough, step_tokens_max_ - step_tokens_max_ / 2);
  if (step.phase == StepPhase::kDecode || step.tokens < enough) return;
  const double seen =
      absl::ToDoubleSeconds(step.duration) / static_cast<double>(step.tokens);
  seconds_per_token_ = seconds_per_token_ == 0
                           ? seen
                           : std::min(seen, seconds_per_token_ * kSlowerAtMost);
}

void Pace::OnRefused() { seconds_per_token_ *= kAfterRefusal; }

absl::Duration Pace::Estimate(int64_t tokens) const {
  return absl::Seconds(seconds_per_token_ * static_cast<double>(tokens));
}

}  // namespace weir::service
