// SPDX-License-Identifier: Apache-2.0
//
// What stands in the place of a mixer's queries and keys on a GPU, made from
// its front: feature maps, with weights of their own or none, and the
// Performer's random features, which bring a decay.
//
// Threads: as device_part.h.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "engine/device/device_linear.h"
#include "engine/device/mixer_front.h"
#include "engine/kernels/cuda/feature_rows.h"

namespace weir::engine {

enum class FeatureRule {
  kMap,    // FeatureRowsArgs of q and k
  kRelu,   // RandomFeatureArgs, is_relu
  kFavor,  // favor.h
};

struct FeatureShape {
  FeatureRule rule = FeatureRule::kMap;
  int32_t features = 0;  // F of a head
  FeatureMap map = FeatureMap::kNone;
  bool divided_queries = false;
  bool divided_keys = false;
  float query_scale = 1;  // of the features
  // Of random features: x is `scale` times q or k.
  float scale = 1;
  float eps = 0;
  bool shared = true;  // one W for all heads
};

// In host memory; what a rule has not is left out. The queries' product is the
// keys' where both are one.
struct FeatureSource {
  const Linear* query_product = nullptr;
  const Linear* key_product = nullptr;
  std::span<const float> random = {};  // W [m, d], or [heads, m, d]
};

class KeyFeatures {
 public:
  struct Arrays {
    void* narrow = nullptr;      // what a product takes, rounded
    float* projected = nullptr;  // [tokens, heads, columns]
    float* q = nullptr;          // [tokens, heads, F]
    float* k = nullptr;          // [tokens, heads, F]
    float* half = nullptr;       // [tokens, heads], of random features
    float* log2_decay = nullptr;
    float* query_sums = nullptr;
  };

  KeyFeatures() = default;
  // RESOURCE_EXHAUSTED, INTERNAL; UNIMPLEMENTED for a width that no product
  // takes.
  static absl::StatusOr<KeyFeatures> Take(const FeatureShape& shape,
                                          const FrontShape& front,
                                          const FeatureSource& from,
                                          DeviceWeights& weights);

  const FeatureShape& shape() const { return shape_; }
  bool is_favor() const { return shape_.rule == FeatureRule::kFavor; }
  // Of all heads.
  int64_t width() const { return int64_t{front_.key_heads} * shape_.features; }
  // "maximum", or nothing.
  std::vector<DeviceTensor> State() const;
  Arrays Place(Workspace& workspace, int64_t padded_tokens) const;
  // Fills arrays.q and arrays.k and, of FAVOR+, log2_decay [tokens, heads] and
  // query_sums [tokens, heads]. `maximum` is the pool's tensor of State().
  absl::Status Forward(const DeviceInput& input,
                       const MixerFront& front,
                       const MixerFront::Arrays& mixed,
                       const Arrays& arrays,
                       size_t maximum) const;

 private:
  const DeviceLinear& query_product() const {
    return is_tied_ ? key_product_ : query_product_;
  }
  // [T, heads, F] of what the front has at x.
  absl::Status Map(const DeviceInput& input,
                   TokenRows x,
                   const DeviceLinear& product,
                   const Arrays& arrays,
                   FeatureRowsArgs args) const;
  cudaError_t Project(const DeviceInput& input,
                      TokenRows x,
                      const Arrays& arrays,
                      float* u) const;
  cudaError_t MakeRandom(const DeviceInput& input,
                         const MixerFront& front,
                         const MixerFront::Arrays& mixed,
                         const Arrays& arrays,
                         size_t maximum) const;

  FeatureShape shape_;
  FrontShape front_;
  StateNumber number_ = StateNumber::kFloat32;
  bool is_tied_ = false;
  DeviceLinear query_product_;
  DeviceLinear key_product_;
  DeviceMemory random_;  // [d, m] of each head
};

}  // namespace weir::engine
