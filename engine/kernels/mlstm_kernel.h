// SPDX-License-Identifier: Apache-2.0
//
// mLSTM's two passes over values, vectorised.
//
// Bound: bytes. Threads: plain functions. Included by the target files only.
#pragma once

#include "engine/kernels/mlstm.h"
#include "engine/kernels/pointwise_kernel.h"
#include "engine/kernels/vector_math.h"

namespace weir::engine {
namespace {

void MlstmValueRows(const MlstmValueArgs& args, int64_t begin, int64_t end) {
  const int dim = args.value_dim;
  for (int64_t t = begin; t < end; ++t) {
    for (int64_t head = 0; head < args.heads; ++head) {
      const float write = args.write[t * args.heads + head];
      const float* v = args.v.data + t * args.v.stride + head * dim;
      float* out = args.out + (t * args.heads + head) * (dim + 1);
      ForVectors(dim, [&](int i, int n) {
        StoreN(out + i, Broadcast(write) * LoadN(v + i, n), n);
      });
      out[dim] = write;
    }
  }
}

void MlstmReadRows(const MlstmReadArgs& args, int64_t begin, int64_t end) {
  const int dim = args.value_dim;
  for (int64_t t = begin; t < end; ++t) {
    for (int64_t head = 0; head < args.heads; ++head) {
      const int64_t at = t * args.heads + head;
      const float* x = args.x + at * (dim + 1);
      float* out = args.out + at * dim;
      const float weight = __builtin_fabsf(args.scale * x[dim]);
      const float floor = args.floor[at];
      const float divisor = (weight > floor ? weight : floor) + args.eps;
      const Vec factor = Broadcast(args.scale / divisor);
      ForVectors(dim, [&](int i, int n) {
        StoreN(out + i, factor * LoadN(x + i, n), n);
      });
    }
  }
}

}  // namespace
}  // namespace weir::engine
