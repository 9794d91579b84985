// SPDX-License-Identifier: Apache-2.0
#include <cmath>
#include <vector>

#include "engine/kernels/recurrence.h"

namespace weir::engine {
namespace {

// sum_i x[i] s[i], s of [x's length, y's length].
void Contract(const std::vector<double>& s,
              const float* x,
              std::vector<double>& y) {
  y.assign(y.size(), 0);
  const double* row = s.data();
  for (size_t i = 0; i < s.size() / y.size(); ++i, row += y.size()) {
    const double factor = x[i];
    for (size_t j = 0; j < y.size(); ++j) y[j] += factor * row[j];
  }
}

// One head over one row; s is its state as [K, V].
void RunHead(const RecurrenceArgs& args,
             int32_t row,
             int64_t head,
             std::vector<double>& s) {
  const int64_t key_head = head / (args.heads / args.key_heads);
  const int64_t values = args.value_dim;
  std::vector<double> u(values);
  std::vector<double> y(values);
  for (int64_t t = args.row_starts[row]; t < args.row_starts[row + 1]; ++t) {
    const float* q = args.q.data + t * args.q.stride + key_head * args.key_dim;
    const float* k = args.k.data + t * args.k.stride + key_head * args.key_dim;
    const float* v = args.v.data + t * args.v.stride + head * values;
    const double decay = std::exp2(
        double{args.log2_decay.data[t * args.log2_decay.stride + head]});
    for (double& x : s) x *= decay;
    if (args.beta.data != nullptr) {
      const double beta = args.beta.data[t * args.beta.stride + head];
      Contract(s, k, u);
      for (int64_t j = 0; j < values; ++j) u[j] = beta * (v[j] - u[j]);
    } else {
      u.assign(v, v + values);
    }
    for (int64_t i = 0; i < args.key_dim; ++i) {
      const double key = k[i];
      for (int64_t j = 0; j < values; ++j) s[i * values + j] += key * u[j];
    }
    Contract(s, q, y);
    float* out = args.out + t * args.out_stride + head * values;
    for (int64_t j = 0; j < values; ++j) out[j] = static_cast<float>(y[j]);
  }
}

}  // namespace

void RecurrenceReference(const RecurrenceArgs& args) {
  const int64_t keys = args.key_dim;
  const int64_t values = args.value_dim;
  std::vector<double> s(keys * values);
  for (int32_t row = 0; row < args.rows; ++row) {
    const int32_t slot = args.slots[row];
    if (slot < 0) continue;
    for (int64_t head = 0; head < args.heads; ++head) {
      float* state =
          args.state + slot * args.state_stride + head * keys * values;
      for (int64_t i = 0; i < keys * values; ++i) {
        s[i] = state[i % values * keys + i / values];
      }
      RunHead(args, row, head, s);
      for (int64_t i = 0; i < keys * values; ++i) {
        state[i % values * keys + i / values] = static_cast<float>(s[i]);
      }
    }
  }
}

}  // namespace weir::engine
