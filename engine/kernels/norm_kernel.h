// SPDX-License-Identifier: Apache-2.0
//
// The norms of pointwise.h, vectorised over the channels of a token.
//
// Bound: bytes. Threads: plain functions. Included by the target files only.
#pragma once

#include "engine/kernels/pointwise.h"
#include "engine/kernels/vector_math.h"

namespace weir::engine {
namespace {

WEIR_INLINE Vec InverseRoot(float mean, float eps) {
  return Broadcast(1.0F / __builtin_sqrtf(mean + eps));
}

void NormRow(
    const float* x, const float* weight, float eps, int width, float* out) {
  Vec sum = {};
  ForVectors(width, [&](int i, int n) {
    const Vec y = LoadN(x + i, n);
    sum = Fma(y, y, sum);
  });
  const Vec scale = InverseRoot(SumLanes(sum) / width, eps);
  ForVectors(width, [&](int i, int n) {
    StoreN(out + i, LoadN(x + i, n) * scale * LoadN(weight + i, n), n);
  });
}

void RmsNormRows(TokenRows x,
                 const float* weight,
                 float eps,
                 int32_t width,
                 float* out,
                 int64_t begin,
                 int64_t end) {
  for (int64_t t = begin; t < end; ++t) {
    NormRow(x.data + t * x.stride, weight, eps, width, out + t * width);
  }
}

void AddRmsNormRows(float* residual,
                    const float* x,
                    const float* weight,
                    float eps,
                    int32_t width,
                    float* out,
                    int64_t begin,
                    int64_t end) {
  for (int64_t t = begin; t < end; ++t) {
    float* sum = residual + t * width;
    const float* add = x + t * width;
    ForVectors(width, [&](int i, int n) {
      StoreN(sum + i, LoadN(sum + i, n) + LoadN(add + i, n), n);
    });
    NormRow(sum, weight, eps, width, out + t * width);
  }
}

WEIR_INLINE Vec Gate(GateKind kind, Vec z) {
  return kind == GateKind::kSilu ? Silu(z) : Sigmoid(z);
}

struct GatedNormRow {
  const float* x;
  const float* z;  // nullptr without a gate
  const float* weight;
  float* out;
};

// The first pass leaves what is to be scaled in out; out may be x.
void GatedNormGroup(const GatedNormArgs& args, const GatedNormRow& row) {
  const bool gated = row.z != nullptr;
  const bool before = gated && args.order == GateOrder::kBeforeNorm;
  const bool after = gated && args.order == GateOrder::kAfterNorm;
  Vec sum = {};
  ForVectors(args.width, [&](int i, int n) {
    Vec y = LoadN(row.x + i, n);
    if (before) y = y * Gate(args.gate, LoadN(row.z + i, n));
    sum = Fma(y, y, sum);
    StoreN(row.out + i, y, n);
  });
  const Vec scale = InverseRoot(SumLanes(sum) / args.width, args.eps);
  ForVectors(args.width, [&](int i, int n) {
    Vec y = LoadN(row.out + i, n) * scale * LoadN(row.weight + i, n);
    if (after) y = y * Gate(args.gate, LoadN(row.z + i, n));
    StoreN(row.out + i, y, n);
  });
}

void GatedNormRows(const GatedNormArgs& args, int64_t begin, int64_t end) {
  for (int64_t t = begin; t < end; ++t) {
    for (int64_t g = 0; g < args.groups; ++g) {
      const int64_t offset = g * args.width;
      GatedNormRow row;
      row.x = args.x.data + t * args.x.stride + offset;
      row.z = args.gate == GateKind::kNone
                  ? nullptr
                  : args.z.data + t * args.z.stride + offset;
      row.weight = args.weight + (args.shared_weight ? 0 : offset);
      row.out = args.out + t * args.groups * args.width + offset;
      GatedNormGroup(args, row);
    }
  }
}

void L2NormalizeRows(float* x,
                     int64_t stride,
                     int32_t heads,
                     int32_t dim,
                     float eps,
                     float scale,
                     int64_t begin,
                     int64_t end) {
  for (int64_t t = begin; t < end; ++t) {
    for (int64_t h = 0; h < heads; ++h) {
      float* p = x + t * stride + h * dim;
      Vec sum = {};
      ForVectors(dim, [&](int i, int n) {
        const Vec y = LoadN(p + i, n);
        sum = Fma(y, y, sum);
      });
      const Vec factor =
          Broadcast(scale / __builtin_sqrtf(SumLanes(sum) + eps));
      ForVectors(dim, [&](int i, int n) {
        StoreN(p + i, LoadN(p + i, n) * factor, n);
      });
    }
  }
}

}  // namespace
}  // namespace weir::engine
