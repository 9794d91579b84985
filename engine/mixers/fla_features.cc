// SPDX-License-Identifier: Apache-2.0
#include "engine/mixers/fla_features.h"

#include <algorithm>
#include <cmath>

#include "engine/kernels/activation.h"
#include "engine/mixers/parallel.h"

namespace weir::engine {
namespace {

constexpr int64_t kDpfpShifts = 4;
// What a sum of features is kept above; no configuration names it.
constexpr double kSumEps = 1e-4;

// Columns of the product for a head, none if it has no weights.
int64_t ProductColumns(FeatureKind kind, int64_t head_dim) {
  switch (kind) {
    case FeatureKind::kT2r:
    case FeatureKind::kHedgehog:
      return head_dim;
    case FeatureKind::kElementwiseProduct:
      return 2 * head_dim;
    case FeatureKind::kIdentity:
    case FeatureKind::kEluPlusOne:
    case FeatureKind::kRelu:
    case FeatureKind::kDpfp:
      break;
  }
  return 0;
}

bool HasBias(FeatureKind kind) {
  return kind == FeatureKind::kElementwiseProduct ||
         kind == FeatureKind::kHedgehog;
}

// to [2 width] = softmax(2 y, -2 y). Less the greatest, which is 2 |y|max.
void Hedgehog(const float* y, int64_t width, float* to) {
  float high = 0;
  for (int64_t i = 0; i < width; ++i) high = std::max(high, std::abs(y[i]));
  float sum = 0;
  for (int64_t i = 0; i < width; ++i) {
    to[i] = std::exp(2 * (y[i] - high));
    to[width + i] = std::exp(-2 * (y[i] + high));
    sum += to[i] + to[width + i];
  }
  for (int64_t i = 0; i < 2 * width; ++i) to[i] /= sum;
}

// to [4, 2 width]: part j is r[i] r[i - j], the indices in a ring.
void Dpfp(const float* x, int64_t width, float* to) {
  const int64_t ring = 2 * width;
  const auto r = [x, width](int64_t i) {
    return i < width ? std::max(x[i], 0.0F) : std::max(-x[i - width], 0.0F);
  };
  for (int64_t j = 1; j <= kDpfpShifts; ++j) {
    for (int64_t i = 0; i < ring; ++i) {
      // A ring may be narrower than the shift.
      *to++ = r(i) * r((i - j % ring + ring) % ring);
    }
  }
}

}  // namespace

int64_t FeaturesOf(FeatureKind kind, int64_t head_dim) {
  if (kind == FeatureKind::kHedgehog) return 2 * head_dim;
  if (kind == FeatureKind::kDpfp) return 2 * kDpfpShifts * head_dim;
  return head_dim;
}

FlaFeatures::FlaFeatures(FeatureKind kind, int64_t heads, int64_t head_dim)
    : kind_(kind),
      heads_(heads),
      head_dim_(head_dim),
      product_(head_dim, ProductColumns(kind, head_dim), HasBias(kind)) {}

std::vector<WeightSlot> FlaFeatures::Weights(const std::string& prefix) {
  if (!has_product()) return {};
  std::vector<std::string> layers = {"layer"};
  if (kind_ == FeatureKind::kElementwiseProduct) layers = {"layer1", "layer2"};
  std::vector<WeightSlot> slots;
  int64_t first = 0;
  for (const std::string& layer : layers) {
    slots.push_back(
        product_.Rows(prefix + layer + ".weight", first, head_dim_));
    if (HasBias(kind_)) {
      slots.push_back(
          product_.Bias(prefix + layer + ".bias", first, head_dim_));
    }
    first += head_dim_;
  }
  return slots;
}

int64_t FlaFeatures::workspace_floats() const {
  return has_product() ? width() + heads_ * product_.outputs() : 0;
}

void FlaFeatures::Map(const float* x, float* out) const {
  const int64_t features = FeaturesOf(kind_, head_dim_);
  switch (kind_) {
    case FeatureKind::kIdentity:
      std::copy_n(x, width(), out);
      return;
    case FeatureKind::kEluPlusOne:
      std::copy_n(x, width(), out);
      Activate(Activation::kEluPlusOne, out, width());
      return;
    case FeatureKind::kRelu:
    case FeatureKind::kT2r:
      std::copy_n(x, width(), out);
      Activate(Activation::kRelu, out, width());
      return;
    case FeatureKind::kElementwiseProduct:
      for (int64_t h = 0; h < heads_; ++h) {
        const float* y = x + h * 2 * head_dim_;
        float* to = out + h * features;
        for (int64_t i = 0; i < head_dim_; ++i) to[i] = y[i] * y[head_dim_ + i];
      }
      return;
    case FeatureKind::kHedgehog:
      for (int64_t h = 0; h < heads_; ++h) {
        Hedgehog(x + h * head_dim_, head_dim_, out + h * features);
      }
      return;
    case FeatureKind::kDpfp:
      for (int64_t h = 0; h < heads_; ++h) {
        Dpfp(x + h * head_dim_, head_dim_, out + h * features);
      }
      return;
  }
}

void FlaFeatures::Forward(TokenRows x,
                          int64_t tokens,
                          float* workspace,
                          float* out) const {
  TokenRows from = x;
  if (has_product()) {
    float* gathered = workspace;
    float* projected = gathered + tokens * width();
    ParallelFor(tokens, width(), [&](int64_t begin, int64_t end) {
      for (int64_t t = begin; t < end; ++t) {
        std::copy_n(x.data + t * x.stride, width(), gathered + t * width());
      }
    });
    // To the product a head is a token.
    product_.Forward(gathered, tokens * heads_, projected);
    from = {projected, heads_ * product_.outputs()};
  }
  // An exponential costs about as much as touching ten floats.
  const int64_t cost = 10 * heads_ * FeaturesOf(kind_, head_dim_);
  ParallelFor(tokens, cost, [&](int64_t begin, int64_t end) {
    for (int64_t t = begin; t < end; ++t) {
      Map(from.data + t * from.stride,
          out + t * heads_ * FeaturesOf(kind_, head_dim_));
    }
  });
}

void DivideBySums(float* features, int64_t count, int64_t width) {
  for (int64_t n = 0; n < count; ++n) {
    float* x = features + n * width;
    // In fp64: features of both signs may add up to little.
    double sum = kSumEps;
    for (int64_t i = 0; i < width; ++i) sum += x[i];
    const auto factor = static_cast<float>(1 / sum);
    for (int64_t i = 0; i < width; ++i) x[i] *= factor;
  }
}

}  // namespace weir::engine
