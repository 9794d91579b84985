// SPDX-License-Identifier: Apache-2.0
//
// How long a try lasts, when a call is tried again, and after how long. Sending
// again is safe where the position, an id or the nature of the call makes the
// second time a no-op; Repeat says which of these a call is.
//
// Threads: a Backoff belongs to one call; the rest is constant.
#pragma once

#include <random>

#include "absl/status/status.h"
#include "absl/time/time.h"

namespace weir::client {

// How safe it is to send a call again.
enum class Repeat {
  // It may take effect twice: OpenSession without an id.
  kNever,
  // Sent twice it does the same: reads, opening and closing by id. Tried again
  // where the server is away or says that waiting helps.
  kSafe,
  // The position or a request id makes it exactly-once: appends, generations,
  // forks. Tried again also where nobody knows whether it was applied, but not
  // if the server says that the time does not suffice. The server takes it or
  // refuses it by its deadline, and may work for long: a try gets all the time
  // there is.
  kExactlyOnce,
};

struct RetryPolicy {
  // Tries of one call, the first included; 1: never again.
  int attempts_max = 8;
  // All tries and waits of one call.
  absl::Duration time_max = absl::Seconds(30);
  absl::Duration backoff_initial = absl::Milliseconds(50);
  absl::Duration backoff_max = absl::Seconds(2);
};

// Whether trying again can help and cannot harm. A CANCELLED that the caller
// asked for is the caller's to recognise.
bool MayRetry(const absl::Status& status, Repeat repeat);

// When a try that begins now ends: after `call_deadline`, or, where the server
// judges the call by its deadline, at `end`, that of all tries.
absl::Time DeadlineOfTry(Repeat repeat,
                         absl::Time now,
                         absl::Duration call_deadline,
                         absl::Time end);

// The tries of one call.
class Backoff {
 public:
  // Counts from `now`.
  Backoff(const RetryPolicy& policy, absl::Time now);

  // How long to wait after a failed try: exponential with jitter, and at least
  // what the server's RetryInfo says; InfiniteDuration() if it was the last
  // one, by number or by time.
  absl::Duration Next(const absl::Status& status, absl::Time now);

  // After progress: the next failure counts as the first one.
  void Reset(absl::Time now);

  absl::Time end() const { return end_; }

 private:
  const RetryPolicy policy_;
  absl::Time end_;
  int failures_ = 0;
  std::minstd_rand random_;
};

}  // namespace weir::client
