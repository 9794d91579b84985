// SPDX-License-Identifier: Apache-2.0
//
// Which target's kernels are in use: the best that the machine has, unless a
// test or a benchmark forced another.
//
// Threads: any; the choice is an atomic.
#pragma once

#include <string_view>
#include <vector>

#include "engine/kernels/kernel_table.h"

namespace weir::engine {

// The table in use: the best that the machine has, unless one was forced.
const KernelTable& Kernels();

// The names of the targets that this machine has, best first.
std::vector<std::string_view> KernelTargets();

// For tests and benchmarks: from now on `name` is in use; "" takes the best
// again. False, and nothing changes, if the machine does not have it.
bool ForceKernelTarget(std::string_view name);

// For benchmarks: from now on `table` is in use, which must outlive its use;
// null takes the best again.
void ForceKernelTable(const KernelTable* table);

}  // namespace weir::engine
