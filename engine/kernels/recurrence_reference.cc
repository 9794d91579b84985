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

// One token of one head, by its first elements.
struct Token {
  const float* q;
  const float* k;
  const float* v;
  const float* log2_decay;
  const float* beta;  // nullptr: no delta rule
  const float* a;     // nullptr: no correction
  const float* b;
};

Token TokenOf(const RecurrenceArgs& args, int64_t t, int64_t head) {
  const int64_t key_head = head / (args.heads / args.key_heads);
  const auto at = [t](const TokenRows& rows, int64_t offset) {
    return rows.data == nullptr ? nullptr
                                : rows.data + t * rows.stride + offset;
  };
  const int64_t decays = args.decay == DecayKind::kHead  ? 1
                         : args.decay == DecayKind::kKey ? args.key_dim
                                                         : args.value_dim;
  return {.q = at(args.q, key_head * args.key_dim),
          .k = at(args.k, key_head * args.key_dim),
          .v = at(args.v, head * args.value_dim),
          .log2_decay = at(args.log2_decay, head * decays),
          .beta = at(args.beta, head),
          .a = at(args.a, head * args.key_dim),
          .b = at(args.b, head * args.key_dim)};
}

// S <- d S for the state as [K, V].
void DecayState(const RecurrenceArgs& args,
                const Token& token,
                std::vector<double>& s) {
  const int64_t values = args.value_dim;
  std::vector<double> by_value(values);
  for (int64_t i = 0; i < args.key_dim; ++i) {
    double* row = s.data() + i * values;
    if (args.decay == DecayKind::kValue) {
      for (int64_t j = 0; i == 0 && j < values; ++j) {
        by_value[j] = std::exp2(double{token.log2_decay[j]});
      }
      for (int64_t j = 0; j < values; ++j) row[j] *= by_value[j];
      continue;
    }
    const int64_t channel = args.decay == DecayKind::kKey ? i : 0;
    const double decay = std::exp2(double{token.log2_decay[channel]});
    for (int64_t j = 0; j < values; ++j) row[j] *= decay;
  }
}

// One head over one row; s is its state as [K, V].
void RunHead(const RecurrenceArgs& args,
             int32_t row,
             int64_t head,
             std::vector<double>& s) {
  const int64_t values = args.value_dim;
  const bool before = args.read == ReadOrder::kBeforeWrite;
  std::vector<double> u(values);
  std::vector<double> w(values);
  std::vector<double> y(values);
  for (int64_t t = args.row_starts[row]; t < args.row_starts[row + 1]; ++t) {
    const Token token = TokenOf(args, t, head);
    if (before) Contract(s, token.q, y);
    if (token.a != nullptr) Contract(s, token.a, w);
    DecayState(args, token, s);
    u.assign(token.v, token.v + values);
    const double beta = token.beta == nullptr ? 1 : *token.beta;
    if (token.a != nullptr && token.b == nullptr) {
      for (int64_t j = 0; j < values; ++j) u[j] = beta * (u[j] + w[j]);
    } else if (token.beta != nullptr) {
      Contract(s, token.k, w);
      for (int64_t j = 0; j < values; ++j) {
        u[j] = beta * (u[j] - w[j]);
      }
    }
    double bonus = 0;
    for (int64_t i = 0; i < args.key_dim; ++i) {
      const double key = token.k[i];
      for (int64_t j = 0; j < values; ++j) s[i * values + j] += key * u[j];
      if (before) {
        bonus += double{token.q[i]} * args.bonus[head * args.key_dim + i] * key;
      }
      if (token.b == nullptr) continue;
      for (int64_t j = 0; j < values; ++j) {
        s[i * values + j] += double{token.b[i]} * w[j];
      }
    }
    if (!before) Contract(s, token.q, y);
    float* out = args.out + t * args.out_stride + head * values;
    for (int64_t j = 0; j < values; ++j) {
      out[j] = static_cast<float>(y[j] + bonus * u[j]);
    }
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
      float* rest = args.rest == nullptr ? nullptr
                                         : args.rest + slot * args.rest_stride +
                                               head * keys * values;
      for (int64_t i = 0; i < keys * values; ++i) {
        const int64_t at = i % values * keys + i / values;
        s[i] = state[at];
        if (rest != nullptr) s[i] += rest[at];
      }
      RunHead(args, row, head, s);
      for (int64_t i = 0; i < keys * values; ++i) {
        const int64_t at = i % values * keys + i / values;
        state[at] = static_cast<float>(s[i]);
        if (rest != nullptr) rest[at] = static_cast<float>(s[i] - state[at]);
      }
    }
  }
}

}  // namespace weir::engine
