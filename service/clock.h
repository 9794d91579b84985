// SPDX-License-Identifier: Apache-2.0
//
// The time of the service: monotonic, so that a jump of the wall clock expires
// nothing. A seam: tests move it by hand.
//
// Threads: Now() from any.
#pragma once

#include "absl/time/time.h"

namespace weir::service {

class Clock {
 public:
  virtual ~Clock() = default;

  // Time since an arbitrary start; never goes back.
  virtual absl::Duration Now() const = 0;
};

// The machine's monotonic clock.
class SteadyClock final : public Clock {
 public:
  absl::Duration Now() const override;
};

}  // namespace weir::service
