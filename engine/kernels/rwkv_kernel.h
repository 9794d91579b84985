// SPDX-License-Identifier: Apache-2.0
//
// RWKV's terms, vectorised over the channels of a head.
//
// Bound: bytes. Threads: plain functions. Included by the target files only.
#pragma once

#include "engine/kernels/activation_kernel.h"
#include "engine/kernels/rwkv.h"
#include "engine/kernels/vector_math.h"

namespace weir::engine {
namespace {

// e^-1/2 log2(e): the fastest decay is 2 to minus this a token.
constexpr float kRwkv7Rate = 0.875038775F;

// One head of one token, from its first channel `at`; `weights` is the head's.
void Rwkv7Head(const Rwkv7TermArgs& args, int64_t at, int64_t weights) {
  const float* k_k = args.k_k + weights;
  const float* k_a = args.k_a + weights;
  float* w = args.w + at;
  float* rate = args.rate + at;
  float* k = args.k + at;
  float* a = args.a + at;
  Vec sum = {};
  ForVectors(args.key_dim, [&](int c, int n) {
    const Vec u = LoadN(k + c, n) * LoadN(k_k + c, n);
    sum = Fma(u, u, sum);
  });
  const Vec scale = Broadcast(1.0F / __builtin_sqrtf(SumLanes(sum) + args.eps));
  const Vec one = Broadcast(1.0F);
  const Vec fastest = Broadcast(-kRwkv7Rate);
  ForVectors(args.key_dim, [&](int c, int n) {
    const Vec key = LoadN(k + c, n);
    const Vec u = key * LoadN(k_k + c, n) * scale;
    const Vec i = Sigmoid(LoadN(rate + c, n));
    StoreN(a + c, -u, n);
    StoreN(rate + c, u * i, n);
    StoreN(k + c, key * Fma(i - one, LoadN(k_a + c, n), one), n);
    StoreN(w + c, fastest * Sigmoid(LoadN(w + c, n)), n);
  });
}

void Rwkv7TermRows(const Rwkv7TermArgs& args, int64_t begin, int64_t end) {
  for (int64_t t = begin; t < end; ++t) {
    for (int64_t h = 0; h < args.heads; ++h) {
      const int64_t weights = h * args.key_dim;
      Rwkv7Head(args, t * args.heads * args.key_dim + weights, weights);
    }
  }
}

void Rwkv7ValueRows(const float* first,
                    const float* mix,
                    int32_t width,
                    float* v,
                    int64_t begin,
                    int64_t end) {
  for (int64_t t = begin; t < end; ++t) {
    const int64_t at = t * width;
    ForVectors(width, [&](int c, int n) {
      const Vec own = LoadN(v + at + c, n);
      const Vec delta = LoadN(first + at + c, n) - own;
      StoreN(v + at + c, Fma(delta, Sigmoid(LoadN(mix + at + c, n)), own), n);
    });
  }
}

void Rwkv7BonusRows(const Rwkv7BonusArgs& args, int64_t begin, int64_t end) {
  const int64_t heads = args.heads;
  for (int64_t item = begin * heads; item < end * heads; ++item) {
    const float* r_k = args.r_k + item % heads * args.key_dim;
    const float* r = args.r + item * args.key_dim;
    const float* k = args.k + item * args.key_dim;
    Vec sum = {};
    ForVectors(args.key_dim, [&](int c, int n) {
      sum = Fma(LoadN(r + c, n) * LoadN(k + c, n), LoadN(r_k + c, n), sum);
    });
    const Vec bonus = Broadcast(SumLanes(sum));
    const int64_t at = item * args.value_dim;
    ForVectors(args.value_dim, [&](int c, int n) {
      float* y = args.y + at + c;
      const Vec past = Fma(bonus, LoadN(args.v + at + c, n), LoadN(y, n));
      StoreN(y, past * LoadN(args.g + at + c, n), n);
    });
  }
}

void Rwkv6DecayAll(float* w, int64_t count) {
  ForAll(w, count, [](Vec x) { return Broadcast(-1.44269504F) * Exp(x); });
}

}  // namespace
}  // namespace weir::engine
