// SPDX-License-Identifier: Apache-2.0
//
// Ids and seeds that the server picks, from the system's generator.
//
// Threads: any.
#pragma once

#include <cstdint>
#include <string>

namespace weir::service {

// 32 hex digits.
std::string IssueSessionId();
uint64_t IssueSeed();

}  // namespace weir::service
