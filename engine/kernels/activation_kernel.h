// SPDX-License-Identifier: Apache-2.0
//
// The activations of activation.h, vectorised.
//
// Bound: bytes. Threads: plain functions. Included by the target files only.
#pragma once

#include "engine/kernels/activation.h"
#include "engine/kernels/vector_math.h"

namespace weir::engine {
namespace {

template <typename F>
WEIR_INLINE void ForAll(float* x, int64_t count, F f) {
  int64_t i = 0;
  for (; i + kLanes <= count; i += kLanes) Store(x + i, f(Load(x + i)));
  const int rest = static_cast<int>(count - i);
  StorePart(x + i, f(LoadPart(x + i, rest)), rest);
}

void ActivateAll(Activation kind, float* x, int64_t count) {
  switch (kind) {
    case Activation::kNone:
      return;
    case Activation::kTanh:
      ForAll(x, count, [](Vec y) { return Tanh(y); });
      return;
    case Activation::kSigmoid:
      ForAll(x, count, [](Vec y) { return Sigmoid(y); });
      return;
    case Activation::kSilu:
      ForAll(x, count, [](Vec y) { return Silu(y); });
      return;
    case Activation::kRelu:
      ForAll(x, count, [](Vec y) {
        const Vec zero = {};
        return y < zero ? zero : y;
      });
      return;
    case Activation::kEluPlusOne:
      ForAll(x, count, [](Vec y) {
        const Vec zero = {};
        return y < zero ? Exp(y) : y + Broadcast(1.0F);
      });
      return;
    case Activation::kSquaredRelu:
      // A NaN is not below zero, and so stays one.
      ForAll(x, count, [](Vec y) {
        const Vec zero = {};
        y = y < zero ? zero : y;
        return y * y;
      });
      return;
  }
}

void SigmoidMultiplyRows(TokenRows gate,
                         TokenRows up,
                         int32_t width,
                         float* out,
                         int64_t begin,
                         int64_t end) {
  for (int64_t t = begin; t < end; ++t) {
    const float* x = gate.data + t * gate.stride;
    const float* y = up.data + t * up.stride;
    float* p = out + t * width;
    ForVectors(width, [&](int i, int n) {
      StoreN(p + i, Sigmoid(LoadN(x + i, n)) * LoadN(y + i, n), n);
    });
  }
}

}  // namespace
}  // namespace weir::engine
