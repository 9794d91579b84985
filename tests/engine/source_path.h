// SPDX-License-Identifier: Apache-2.0
//
// Where the files are that tests read.
//
// Threads: a function of its argument.
#pragma once

#include <string>

namespace weir::engine {

// A path within the source tree.
std::string SourcePath(const std::string& relative);

}  // namespace weir::engine
