// SPDX-License-Identifier: Apache-2.0
//
// A fault of the device, of the kind that no call recovers from.
//
// Threads: any.
#pragma once

namespace weir::gpu {

// Puts a kernel that traps on a stream of its own.
void LaunchTrap();

}  // namespace weir::gpu
