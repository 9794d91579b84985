// SPDX-License-Identifier: Apache-2.0
//
// A clock that stands still until a test moves it.
//
// Threads: any.
#pragma once

#include <atomic>
#include <cstdint>

#include "service/clock.h"

namespace weir::support {

class FakeClock final : public service::Clock {
 public:
  absl::Duration Now() const override {
    return absl::Nanoseconds(nanoseconds_.load());
  }
  void Advance(absl::Duration by) {
    nanoseconds_ += absl::ToInt64Nanoseconds(by);
  }

 private:
  std::atomic<int64_t> nanoseconds_ = int64_t{1'000'000'000};
};

}  // namespace weir::support
