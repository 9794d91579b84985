// SPDX-License-Identifier: Apache-2.0
#include "service/clock.h"

#include <chrono>

namespace weir::service {

absl::Duration SteadyClock::Now() const {
  return absl::FromChrono(std::chrono::steady_clock::now().time_since_epoch());
}

}  // namespace weir::service
