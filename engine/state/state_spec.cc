// SPDX-License-Identifier: Apache-2.0
#include "engine/state/state_spec.h"

namespace weir::engine {

int64_t StateTensor::elements() const {
  if (shape.empty()) return 0;
  int64_t product = 1;
  for (const int64_t extent : shape) {
    if (extent < 0) return 0;
    if (__builtin_mul_overflow(product, extent, &product)) return 0;
  }
  return product;
}

int64_t StateSpec::bytes() const {
  int64_t total = 0;
  for (const StateTensor& tensor : tensors) {
    total += tensor.elements() * static_cast<int64_t>(sizeof(float));
  }
  return total;
}

}  // namespace weir::engine
