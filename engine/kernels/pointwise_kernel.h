// SPDX-License-Identifier: Apache-2.0
//
// The gates and activations of pointwise.h, vectorised over the channels of a
// token.
//
// Bound: bytes. Threads: plain functions. Included by the target files only.
#pragma once

#include "engine/kernels/pointwise.h"
#include "engine/kernels/vector_math.h"

namespace weir::engine {
namespace {

constexpr float kLog2E = 1.44269504F;

void SiluMultiplyRows(TokenRows gate,
                      TokenRows up,
                      int32_t width,
                      float* out,
                      int64_t begin,
                      int64_t end) {
  for (int64_t t = begin; t < end; ++t) {
    const float* x = gate.data + t * gate.stride;
    const float* y = up.data == nullptr ? nullptr : up.data + t * up.stride;
    float* p = out + t * width;
    ForVectors(width, [&](int i, int n) {
      const Vec factor = y == nullptr ? Broadcast(1.0F) : LoadN(y + i, n);
      StoreN(p + i, Silu(LoadN(x + i, n)) * factor, n);
    });
  }
}

void DeltaGateRows(const DeltaGateArgs& args, int64_t begin, int64_t end) {
  const Vec beta_scale = Broadcast(args.beta_scale);
  const Vec minus_log2e = Broadcast(-kLog2E);
  for (int64_t t = begin; t < end; ++t) {
    const float* a = args.a.data + t * args.a.stride;
    const float* b = args.b.data + t * args.b.stride;
    float* log2_decay = args.log2_decay + t * args.heads;
    float* beta = args.beta + t * args.heads;
    ForVectors(args.heads, [&](int i, int n) {
      const Vec rate = minus_log2e * Exp(LoadN(args.a_log + i, n));
      const Vec dt = Softplus(LoadN(a + i, n) + LoadN(args.dt_bias + i, n));
      StoreN(log2_decay + i, rate * dt, n);
      StoreN(beta + i, beta_scale * Sigmoid(LoadN(b + i, n)), n);
    });
  }
}

void TimeStepRows(const TimeStepArgs& args, int64_t begin, int64_t end) {
  const Vec dt_min = Broadcast(args.dt_min);
  const Vec dt_max = Broadcast(args.dt_max);
  const Vec minus_log2e = Broadcast(-kLog2E);
  for (int64_t t = begin; t < end; ++t) {
    const float* raw = args.dt.data + t * args.dt.stride;
    const float* x = args.x.data + t * args.x.stride;
    float* log2_decay = args.log2_decay + t * args.heads;
    float* v = args.v + t * args.heads * args.head_dim;
    ForVectors(args.heads, [&](int i, int n) {
      Vec dt = Softplus(LoadN(raw + i, n) + LoadN(args.dt_bias + i, n));
      dt = dt < dt_min ? dt_min : dt;
      dt = dt > dt_max ? dt_max : dt;
      const Vec rate = minus_log2e * Exp(LoadN(args.a_log + i, n));
      StoreN(log2_decay + i, rate * dt, n);
      for (int h = 0; h < n; ++h) {
        const Vec factor = Broadcast(dt[h]);
        const int64_t offset = int64_t{i + h} * args.head_dim;
        ForVectors(args.head_dim, [&](int c, int m) {
          StoreN(v + offset + c, factor * LoadN(x + offset + c, m), m);
        });
      }
    });
  }
}

void AddSkipRows(TokenRows x,
                 const float* d,
                 int32_t heads,
                 int32_t head_dim,
                 float* out,
                 int64_t begin,
                 int64_t end) {
  for (int64_t t = begin; t < end; ++t) {
    for (int64_t h = 0; h < heads; ++h) {
      const Vec factor = Broadcast(d[h]);
      const float* from = x.data + t * x.stride + h * head_dim;
      float* to = out + (t * heads + h) * head_dim;
      ForVectors(head_dim, [&](int i, int n) {
        StoreN(to + i, Fma(factor, LoadN(from + i, n), LoadN(to + i, n)), n);
      });
    }
  }
}

void SoftCapAll(float* x, int64_t count, float cap) {
  const Vec scale = Broadcast(cap);
  const Vec inverse = Broadcast(1.0F / cap);
  int64_t i = 0;
  for (; i + kLanes <= count; i += kLanes) {
    Store(x + i, scale * Tanh(Load(x + i) * inverse));
  }
  const int rest = static_cast<int>(count - i);
  StorePart(x + i, scale * Tanh(LoadPart(x + i, rest) * inverse), rest);
}

bool IsAllFinite(const float* x, int64_t count) {
  const IntVec exponent = IntVec{} + 0x7F800000;
  IntVec found = {};
  int64_t i = 0;
  for (; i + kLanes <= count; i += kLanes) {
    found |= (__builtin_bit_cast(IntVec, Load(x + i)) & exponent) == exponent;
  }
  const Vec tail = LoadPart(x + i, static_cast<int>(count - i));
  found |= (__builtin_bit_cast(IntVec, tail) & exponent) == exponent;
  int32_t any = 0;
  for (int lane = 0; lane < kLanes; ++lane) any |= found[lane];
  return any == 0;
}

float LogProbability(const float* logits, uint32_t target, int vocabulary) {
  if (target >= static_cast<uint32_t>(vocabulary) ||
      !IsAllFinite(logits, vocabulary)) {
    return __builtin_nanf("");
  }
  float max = logits[0];
  for (int i = 1; i < vocabulary; ++i) {
    max = logits[i] > max ? logits[i] : max;
  }
  double sum[kLanes] = {};
  ForVectors(vocabulary, [&](int i, int n) {
    float e[kLanes];
    Store(e, Exp(LoadN(logits + i, n) - Broadcast(max)));
    for (int lane = 0; lane < n; ++lane) sum[lane] += e[lane];
  });
  double total = 0;
  for (int lane = 0; lane < kLanes; ++lane) total += sum[lane];
  return static_cast<float>(double{logits[target]} - double{max} -
                            __builtin_log(total));
}

void LogProbabilityRows(const float* logits,
                        const uint32_t* targets,
                        int32_t vocabulary,
                        float* scores,
                        int64_t begin,
                        int64_t end) {
  for (int64_t t = begin; t < end; ++t) {
    scores[t] = LogProbability(logits + t * vocabulary, targets[t], vocabulary);
  }
}

}  // namespace
}  // namespace weir::engine
