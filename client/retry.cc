// SPDX-License-Identifier: Apache-2.0
#include "client/retry.h"

#include <algorithm>
#include <cmath>

#include "client/errors.h"

namespace weir::client {

bool MayRetry(const absl::Status& status, Repeat repeat) {
  if (status.ok() || repeat == Repeat::kNever) return false;
  if (absl::IsUnavailable(status) || RetryDelayOf(status).has_value()) {
    return true;
  }
  return repeat == Repeat::kExactlyOnce &&
         (absl::IsDeadlineExceeded(status) || absl::IsCancelled(status)) &&
         ReasonOf(status) != "DEADLINE_IN_QUEUE";
}

absl::Time DeadlineOfTry(Repeat repeat,
                         absl::Time now,
                         absl::Duration call_deadline,
                         absl::Time end) {
  return repeat == Repeat::kExactlyOnce ? end
                                        : std::min(now + call_deadline, end);
}

Backoff::Backoff(const RetryPolicy& policy, absl::Time now)
    : policy_(policy),
      end_(now + policy.time_max),
      random_(std::random_device{}()) {}

absl::Duration Backoff::Next(const absl::Status& status, absl::Time now) {
  ++failures_;
  if (failures_ >= policy_.attempts_max) return absl::InfiniteDuration();
  const absl::Duration full = std::min(
      policy_.backoff_initial * std::exp2(failures_ - 1), policy_.backoff_max);
  // Half of it is fixed, so that tries do not bunch at zero either.
  absl::Duration wait =
      full * std::uniform_real_distribution<double>(0.5, 1)(random_);
  wait = std::max(wait, RetryDelayOf(status).value_or(absl::ZeroDuration()));
  return now + wait < end_ ? wait : absl::InfiniteDuration();
}

void Backoff::Reset(absl::Time now) {
  failures_ = 0;
  end_ = now + policy_.time_max;
}

}  // namespace weir::client
