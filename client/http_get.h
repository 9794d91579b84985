// SPDX-License-Identifier: Apache-2.0
//
// One page over plain HTTP: enough for a metrics page, and no more (no TLS, no
// redirects, no compression).
//
// Threads: pure function; waits for the network.
#pragma once

#include <string>

#include "absl/status/statusor.h"
#include "absl/time/time.h"

namespace weir::client {

// The body of http://`address``path`; `address` is HOST:PORT. UNAVAILABLE if
// nobody answers in time, INVALID_ARGUMENT for a malformed address,
// FAILED_PRECONDITION for an answer other than 200 or above 16 MiB.
absl::StatusOr<std::string> HttpGet(const std::string& address,
                                    const std::string& path,
                                    absl::Duration timeout);

}  // namespace weir::client
