// SPDX-License-Identifier: Apache-2.0
#include "engine/kernels/channel_gates.h"

#include "engine/kernels/kernel_target.h"

namespace weir::engine {

void LogSigmoidDecays(const LogSigmoidArgs& args, int64_t begin, int64_t end) {
  Kernels().log_sigmoid_decays(args, begin, end);
}

void KdaGates(const KdaGateArgs& args, int64_t begin, int64_t end) {
  Kernels().kda_gates(args, begin, end);
}

void Gdn2Gates(const Gdn2GateArgs& args, int64_t begin, int64_t end) {
  Kernels().gdn2_gates(args, begin, end);
}

void HgrnGates(const HgrnGateArgs& args, int64_t begin, int64_t end) {
  Kernels().hgrn_gates(args, begin, end);
}

}  // namespace weir::engine
