// SPDX-License-Identifier: Apache-2.0
//
// How much the service holds and does at most. All are positive.
//
// Threads: plain values.
#pragma once

#include <cstdint>

#include "absl/time/time.h"

namespace weir::service {

struct Limits {
  // Commands and appends that have been pushed and not answered.
  int32_t queue_max = 4096;
  // Tokens of appends that have been pushed and not answered. One append
  // alone may have more.
  int64_t waiting_tokens_max = int64_t{64} << 20;
  int32_t append_tokens_max = 65'536;
  int32_t step_tokens_max = 512;
  int32_t step_rows_max = 256;
  uint64_t session_tokens_max = uint64_t{1} << 40;
  // Host memory of all logs together; a store rounds up to its blocks.
  uint64_t log_bytes_max = uint64_t{512} << 20;
  uint32_t generate_tokens_max = 65'536;
  int32_t unsent_events_max = 64;
  absl::Duration slow_consumer_after = absl::Seconds(30);
  absl::Duration idle_timeout_default = absl::Hours(1);
  absl::Duration idle_timeout_max = absl::Hours(24 * 7);
};

}  // namespace weir::service
