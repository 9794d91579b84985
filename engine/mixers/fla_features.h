// SPDX-License-Identifier: Apache-2.0
//
// The feature maps of flash-linear-attention's linear attention: what stands
// in the place of a head's query or key x [K], F features:
//
//   identity, elu, relu   x, elu(x) + 1, max(x, 0)                       F = K
//   t2r                   max(W x, 0) (arXiv 2103.13076)                 F = K
//   elementwise_product   (W_1 x + c_1) * (W_2 x + c_2)                  F = K
//   hedgehog              softmax(2 y, -2 y), y = W x + c
//                         (arXiv 2402.04347)                             F = 2K
//   dpfp                  r * roll(r, j) for j = 1..4, r = max((x, -x), 0)
//                         (arXiv 2102.11174)                             F = 8K
//
// The heads share the weights.
//
// Threads: as linear.h.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "engine/mixers/linear.h"
#include "engine/mixers/mixer.h"

namespace weir::engine {

enum class FeatureKind {
  kIdentity,
  kEluPlusOne,
  kRelu,
  kT2r,
  kElementwiseProduct,
  kHedgehog,
  kDpfp,
};

// F of a head of K.
int64_t FeaturesOf(FeatureKind kind, int64_t head_dim);

class FlaFeatures {
 public:
  FlaFeatures(FeatureKind kind, int64_t heads, int64_t head_dim);

  // Their names follow `prefix`: "feature_map_q.".
  std::vector<WeightSlot> Weights(const std::string& prefix);
  int64_t workspace_floats() const;  // for each token
  // Of W, or W_1 and W_2; without columns where there are none.
  const Linear& product() const { return product_; }

  // x [T][heads, K]; out [T, heads, F], contiguous.
  void Forward(TokenRows x, int64_t tokens, float* workspace, float* out) const;

 private:
  int64_t width() const { return heads_ * head_dim_; }
  bool has_product() const { return product_.outputs() > 0; }
  // The features of one token, of what was projected: [heads, outputs].
  void Map(const float* x, float* out) const;

  const FeatureKind kind_;
  const int64_t heads_;
  const int64_t head_dim_;
  Linear product_;
};

// Each of `count` features [F] over the sum of its values plus 1e-4.
void DivideBySums(float* features, int64_t count, int64_t width);

}  // namespace weir::engine
