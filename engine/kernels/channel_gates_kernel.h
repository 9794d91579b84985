// SPDX-License-Identifier: Apache-2.0
//
// The gates of channel_gates.h, vectorised over the channels of a token.
//
// Bound: bytes. Threads: plain functions. Included by the target files only.
#pragma once

#include "engine/kernels/channel_gates.h"
#include "engine/kernels/pointwise_kernel.h"
#include "engine/kernels/vector_math.h"

namespace weir::engine {
namespace {

void LogSigmoidDecayRows(const LogSigmoidArgs& args,
                         int64_t begin,
                         int64_t end) {
  const Vec scale = Broadcast(-args.scale * kLog2E);
  const Vec low = Broadcast(args.low * kLog2E);
  for (int64_t t = begin; t < end; ++t) {
    const float* x = args.x.data + t * args.x.stride;
    float* out = args.log2_decay + t * args.width;
    ForVectors(args.width, [&](int i, int n) {
      Vec y = scale * Softplus(-LoadN(x + i, n));
      // A NaN is not below the bound, and stays one.
      if (args.low < 0) y = y < low ? low : y;
      StoreN(out + i, y, n);
    });
  }
}

void KdaGateRows(const KdaGateArgs& args, int64_t begin, int64_t end) {
  const int32_t sharing = args.heads / args.key_heads;
  const Vec bound = Broadcast(args.bound * kLog2E);
  const Vec beta_scale = Broadcast(args.beta_scale);
  for (int64_t t = begin; t < end; ++t) {
    const float* b = args.b.data + t * args.b.stride;
    ForVectors(args.heads, [&](int i, int n) {
      StoreN(args.beta + t * args.heads + i,
             beta_scale * Sigmoid(LoadN(b + i, n)),
             n);
    });
    for (int32_t h = 0; h < args.heads; ++h) {
      const int64_t offset = int64_t{h} * args.key_dim;
      const int64_t to = t * args.heads * args.key_dim + offset;
      const float* f = args.f.data + t * args.f.stride + offset;
      const float* k =
          args.k.data + t * args.k.stride + int64_t{h / sharing} * args.key_dim;
      const Vec rate = Exp(Broadcast(args.a_log[h]));
      ForVectors(args.key_dim, [&](int i, int n) {
        const Vec x = LoadN(f + i, n) + LoadN(args.dt_bias + offset + i, n);
        const Vec decay = args.bound < 0
                              ? bound * Sigmoid(rate * x)
                              : Broadcast(-kLog2E) * rate * Softplus(x);
        StoreN(args.log2_decay + to + i, decay, n);
        StoreN(args.a + to + i, -(Exp2(decay) * LoadN(k + i, n)), n);
      });
    }
  }
}

void Gdn2GateRows(const Gdn2GateArgs& args, int64_t begin, int64_t end) {
  const int32_t sharing = args.heads / args.key_heads;
  const Vec erase_scale = Broadcast(-args.erase_scale);
  for (int64_t t = begin; t < end; ++t) {
    for (int32_t h = 0; h < args.key_heads; ++h) {
      const int64_t offset = int64_t{h} * args.key_dim;
      const int64_t to = (t * args.heads + int64_t{h} * sharing) * args.key_dim;
      const float* f = args.f.data + t * args.f.stride + offset;
      const float* b = args.b.data + t * args.b.stride + offset;
      const float* k = args.k.data + t * args.k.stride + offset;
      const Vec rate = Broadcast(-kLog2E) * Exp(Broadcast(args.a_log[h]));
      ForVectors(args.key_dim, [&](int i, int n) {
        const Vec x = LoadN(f + i, n) + LoadN(args.dt_bias + offset + i, n);
        const Vec decay = rate * Softplus(x);
        const Vec erase = erase_scale * Sigmoid(LoadN(b + i, n));
        const Vec a = Exp2(decay) * (erase * LoadN(k + i, n));
        for (int32_t copy = 0; copy < sharing; ++copy) {
          const int64_t at = to + int64_t{copy} * args.key_dim + i;
          StoreN(args.log2_decay + at, decay, n);
          StoreN(args.a + at, a, n);
        }
      });
    }
  }
}

void HgrnGateRows(const HgrnGateArgs& args, int64_t begin, int64_t end) {
  for (int64_t t = begin; t < end; ++t) {
    const float* f = args.f.data + t * args.f.stride;
    float* log2_decay = args.log2_decay + t * args.width;
    float* k = args.k + t * args.width;
    ForVectors(args.width, [&](int i, int n) {
      Vec keep = Sigmoid(-LoadN(f + i, n));
      if (args.low != nullptr) {
        keep = keep * (Broadcast(1.0F) - LoadN(args.low + i, n));
      }
      StoreN(k + i, keep, n);
    });
    // In fp64: next to one the logarithm is what was taken away, to its last
    // bit, and next to zero 1 - k would have none.
    for (int32_t i = 0; i < args.width; ++i) {
      const double low = args.low == nullptr ? 0 : args.low[i];
      const double natural =
          k[i] < 0.5F
              ? __builtin_log1p(-double{k[i]})
              : __builtin_log(low +
                              (1 - low) / (1 + __builtin_exp(-double{f[i]})));
      log2_decay[i] = static_cast<float>(natural * 1.4426950408889634);
    }
  }
}

}  // namespace
}  // namespace weir::engine
