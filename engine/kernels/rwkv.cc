// SPDX-License-Identifier: Apache-2.0
#include "engine/kernels/rwkv.h"

#include "engine/kernels/kernel_target.h"

namespace weir::engine {

void Rwkv7Terms(const Rwkv7TermArgs& args, int64_t begin, int64_t end) {
  Kernels().rwkv7_terms(args, begin, end);
}

void Rwkv7Values(const float* first,
                 const float* mix,
                 int32_t width,
                 float* v,
                 int64_t begin,
                 int64_t end) {
  Kernels().rwkv7_values(first, mix, width, v, begin, end);
}

void Rwkv7Bonus(const Rwkv7BonusArgs& args, int64_t begin, int64_t end) {
  Kernels().rwkv7_bonus(args, begin, end);
}

void Rwkv6Decay(float* w, int64_t count) { Kernels().rwkv6_decay(w, count); }

}  // namespace weir::engine
