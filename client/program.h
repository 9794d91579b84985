// SPDX-License-Identifier: Apache-2.0
//
// Runs another program of Weir to its end and takes what it says.
//
// Threads: any.
#pragma once

#include <string>
#include <vector>

#include "absl/status/statusor.h"

namespace weir::client {

struct ProgramResult {
  int code = 0;     // its exit code; 128 and the number for a signal
  std::string out;  // at most 64 MiB of each
  std::string err;
};

// `name` beside this program, else on the PATH. It has an empty standard input
// and none of the WEIR_* environment. NOT_FOUND if there is no such program,
// RESOURCE_EXHAUSTED if it says more than it may.
absl::StatusOr<ProgramResult> RunProgram(
    const std::string& name, const std::vector<std::string>& arguments);

}  // namespace weir::client
