// SPDX-License-Identifier: Apache-2.0
//
// How fast the device feeds tokens, and so whether an append can be done by its
// deadline: work that is late before it begins only makes others late.
//
// The pace is the best that was seen of late, so that what is refused could
// hardly have been in time. Decode steps and small ones say nothing of it: they
// cost a pass over the weights whatever they feed.
//
// Threads: owned by the step thread.
#pragma once

#include <cstdint>

#include "absl/time/time.h"
#include "service/observer.h"

namespace weir::service {

class Pace {
 public:
  // What waits is fed in steps of at most this many tokens.
  explicit Pace(int64_t step_tokens_max) : step_tokens_max_(step_tokens_max) {}

  void OnStep(const StepStats& step);
  // Said after a refusal: the estimate is trusted a little less, so that one
  // slow stretch does not refuse for ever what no step then disproves.
  void OnRefused();
  // What feeding this many tokens takes; zero while nothing is known.
  absl::Duration Estimate(int64_t tokens) const;

 private:
  int64_t step_tokens_max_;
  double seconds_per_token_ = 0;  // 0: not known
};

}  // namespace weir::service
