// SPDX-License-Identifier: Apache-2.0
#include "engine/kernels/target_kernels.h"

namespace weir::engine {

constinit const KernelTable kAvx2Kernels = TargetKernels("avx2");

}  // namespace weir::engine
