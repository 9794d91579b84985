// SPDX-License-Identifier: Apache-2.0
//
// Loops cut over the library's threads: the engine has none of its own.
//
// Threads: called from the thread that runs the step.
#pragma once

#include <cstdint>

#include "absl/functional/function_ref.h"

namespace weir::engine {

// Calls body(begin, end) for ranges that together make [0, count). `cost` is
// the work of one item, about the number of floats it touches; loops too small
// to be worth waking a thread run here in one piece.
void ParallelFor(int64_t count,
                 int64_t cost,
                 absl::FunctionRef<void(int64_t, int64_t)> body);

}  // namespace weir::engine
