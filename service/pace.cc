// SPDX-License-Identifier: Apache-2.0
#include "service/pace.h"

#include <algorithm>

namespace weir::service {
namespace {

// A step below this is a decode step.
constexpr int64_t kTokensMin = 64;
// How fast the pace follows steps that are slower than it.
constexpr double kSlowerAtMost = 1.1;
constexpr double kAfterRefusal = 0.95;

}  // namespace

void Pace::OnStep(const StepStats& step) {
  if (step.tokens < kTokensMin) return;
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
