// SPDX-License-Identifier: Apache-2.0
#include "engine/kernels/target_kernels.h"

namespace weir::engine {

constinit const KernelTable kAvx512Kernels = TargetKernels("avx512");

}  // namespace weir::engine
