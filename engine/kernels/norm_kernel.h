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

// What is taken from each channel, and what the rest is multiplied by.
struct NormScale {
  Vec mean;
  Vec scale;
};

WEIR_INLINE NormScale ScaleOf(const float* x,
                              int width,
                              float eps,
                              bool centered) {
  NormScale norm = {};
  if (centered) {
    Vec sum = {};
    ForVectors(width, [&](int i, int n) { sum = sum + LoadN(x + i, n); });
    norm.mean = Broadcast(SumLanes(sum) / width);
  }
  Vec sum = {};
  ForVectors(width, [&](int i, int n) {
    // The lanes past the end hold 0, not the mean: left out by their number.
    const Vec y = LoadN(x + i, n) - norm.mean;
    if (n == kLanes || !centered) {
      sum = Fma(y, y, sum);
    } else {
      float part[kLanes];
      Store(part, y);
      const Vec kept = LoadPart(part, n);
      sum = Fma(kept, kept, sum);
    }
  });
  norm.scale = InverseRoot(SumLanes(sum) / width, eps);
  return norm;
}

void NormRow(const NormArgs& args, const float* x, float* out) {
  const NormScale norm = ScaleOf(x, args.width, args.eps, args.centered);
  ForVectors(args.width, [&](int i, int n) {
    Vec y =
        (LoadN(x + i, n) - norm.mean) * norm.scale * LoadN(args.weight + i, n);
    if (args.bias != nullptr) y = y + LoadN(args.bias + i, n);
    StoreN(out + i, y, n);
  });
}

void NormRows(
    const NormArgs& args, TokenRows x, float* out, int64_t begin, int64_t end) {
  for (int64_t t = begin; t < end; ++t) {
    NormRow(args, x.data + t * x.stride, out + t * args.width);
  }
}

void AddNormRows(const NormArgs& args,
                 float* residual,
                 const float* x,
                 float* out,
                 int64_t begin,
                 int64_t end) {
  for (int64_t t = begin; t < end; ++t) {
    float* sum = residual + t * args.width;
    const float* add = x + t * args.width;
    ForVectors(args.width, [&](int i, int n) {
      StoreN(sum + i, LoadN(sum + i, n) + LoadN(add + i, n), n);
    });
    NormRow(args, sum, out + t * args.width);
  }
}

WEIR_INLINE Vec Gate(GateKind kind, Vec z) {
  return kind == GateKind::kSilu ? Silu(z) : Sigmoid(z);
}

struct GatedNormRow {
  const float* x;
  const float* z;       // nullptr without a gate
  const float* weight;  // nullptr: 1
  const float* bias;    // nullptr: 0
  float* out;
};

// The first pass leaves what is to be scaled in out; out may be x.
void GatedNormGroup(const GatedNormArgs& args, const GatedNormRow& row) {
  const bool gated = row.z != nullptr;
  const bool before = gated && args.order == GateOrder::kBeforeNorm;
  const bool after = gated && args.order == GateOrder::kAfterNorm;
  ForVectors(args.width, [&](int i, int n) {
    Vec y = LoadN(row.x + i, n);
    if (before) y = y * Gate(args.gate, LoadN(row.z + i, n));
    StoreN(row.out + i, y, n);
  });
  const NormScale norm = ScaleOf(row.out, args.width, args.eps, args.centered);
  ForVectors(args.width, [&](int i, int n) {
    Vec y = (LoadN(row.out + i, n) - norm.mean) * norm.scale;
    if (row.weight != nullptr) y = y * LoadN(row.weight + i, n);
    if (row.bias != nullptr) y = y + LoadN(row.bias + i, n);
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
      const int64_t weights = args.shared_weight ? 0 : offset;
      row.weight = args.weight == nullptr ? nullptr : args.weight + weights;
      row.bias = args.bias == nullptr ? nullptr : args.bias + weights;
      row.out = args.out + t * args.groups * args.width + offset;
      GatedNormGroup(args, row);
    }
  }
}

// What a head is multiplied by.
WEIR_INLINE float HeadFactor(const HeadNormArgs& args, const float* x) {
  Vec sum = {};
  if (args.norm == HeadNorm::kL2) {
    ForVectors(args.dim, [&](int i, int n) {
      const Vec y = LoadN(x + i, n);
      sum = Fma(y, y, sum);
    });
    return args.scale / __builtin_sqrtf(SumLanes(sum) + args.eps);
  }
  ForVectors(args.dim, [&](int i, int n) {
    const Vec y = LoadN(x + i, n);
    const Vec zero = {};
    sum = sum + (y < zero ? -y : y);
  });
  const float total = SumLanes(sum);
  return args.scale / (total < args.eps ? args.eps : total);
}

void NormalizeHeadRows(const HeadNormArgs& args, int64_t begin, int64_t end) {
  for (int64_t t = begin; t < end; ++t) {
    for (int64_t h = 0; h < args.heads; ++h) {
      float* x = args.x + t * args.stride + h * args.dim;
      const Vec factor = Broadcast(HeadFactor(args, x));
      ForVectors(args.dim, [&](int i, int n) {
        StoreN(x + i, LoadN(x + i, n) * factor, n);
      });
    }
  }
}

}  // namespace
}  // namespace weir::engine
