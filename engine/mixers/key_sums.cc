// SPDX-License-Identifier: Apache-2.0
#include "engine/mixers/key_sums.h"

#include "engine/mixers/parallel.h"

namespace weir::engine {

void RunRunningSum(const Batch& batch, RunningSumArgs args) {
  args.rows = batch.rows;
  args.row_starts = batch.row_starts;
  args.slots = batch.slots;
  if (batch.form == Form::kReference) {
    RunningSumReference(args);
    return;
  }
  ParallelFor(
      int64_t{batch.rows} * args.heads,
      4 * args.dim * (batch.tokens / batch.rows),
      [&](int64_t begin, int64_t end) { RunningSum(args, begin, end); });
}

void DivideHeads(const HeadDivision& shape, const float* sums, float* x) {
  const int64_t heads = shape.heads;
  const int64_t dim = shape.dim;
  ParallelFor(shape.tokens, heads * dim, [&](int64_t begin, int64_t end) {
    for (int64_t head = begin * heads; head < end * heads; ++head) {
      const float factor = 1.0F / (sums[head] + shape.eps);
      for (int64_t i = 0; i < dim; ++i) x[head * dim + i] *= factor;
    }
  });
}

}  // namespace weir::engine
