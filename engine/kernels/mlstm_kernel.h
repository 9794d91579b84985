// SPDX-License-Identifier: Apache-2.0
//
// mLSTM's gates, vectorised over the heads, and its two passes over values.
//
// Bound: bytes; the gates are few. Threads: plain functions. Included by the
// target files only.
#pragma once

#include "engine/kernels/mlstm.h"
#include "engine/kernels/pointwise_kernel.h"
#include "engine/kernels/vector_math.h"

namespace weir::engine {
namespace {

// A vector of heads of one row.
void GateHeads(const MlstmGateArgs& args, int64_t row, int head, int n) {
  const Vec zero = {};
  const Vec cap = Broadcast(args.cap);
  const Vec inverse = Broadcast(1.0F / args.cap);
  float* state = args.state + args.slots[row] * args.state_stride + head;
  Vec m = LoadN(state, n);
  for (int64_t t = args.row_starts[row]; t < args.row_starts[row + 1]; ++t) {
    const float* input = args.input.data + t * args.input.stride + head;
    const float* forget = args.forget.data + t * args.forget.stride + head;
    const Vec i = cap * Tanh(LoadN(input, n) * inverse);
    const Vec f = cap * Tanh(LoadN(forget, n) * inverse);
    const Vec log_f = -Softplus(-f);
    const Vec kept = m + log_f;
    Vec next = kept > i ? kept : i;
    Vec change = (m - next) + log_f;
    // Rounded down, next would make the state grow; m is above it and as good.
    next = change > zero ? m : next;
    change = change > zero ? log_f : change;
    const int64_t at = t * args.heads + head;
    StoreN(args.log2_decay + at, change * Broadcast(kLog2E), n);
    StoreN(args.write + at, Exp(i - next), n);
    StoreN(args.floor + at, Exp(-next), n);
    m = next;
  }
  StoreN(state, m, n);
}

void MlstmGateRows(const MlstmGateArgs& args, int64_t begin, int64_t end) {
  for (int64_t row = begin; row < end; ++row) {
    if (args.slots[row] < 0) continue;
    ForVectors(args.heads, [&](int i, int n) { GateHeads(args, row, i, n); });
  }
}

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
