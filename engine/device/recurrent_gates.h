// SPDX-License-Identifier: Apache-2.0
//
// What a mixer's recurrence decays by and corrects with on a GPU, made from the
// token's projections by one of the rules that mixers have.
//
// Threads: as device_part.h.
#pragma once

#include <cstdint>
#include <span>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "engine/device/device_linear.h"
#include "engine/device/mixer_front.h"

namespace weir::engine {

enum class GateRule {
  kFixed,        // log2_decay [heads] and, if there is one, beta [heads]
  kBeta,         // log2_decay fixed, beta = beta_scale sigmoid(b)
  kDelta,        // DeltaGateArgs
  kHeadSigmoid,  // LogSigmoidArgs of each head's a
  kKeySigmoid,   // LogSigmoidArgs of decay_up's channels
  kKda,          // KdaGateArgs, f by decay_up
  kGdn2,         // Gdn2GateArgs, likewise, and values times sigmoid(w)
  kHgrn,         // HgrnGateArgs of a, which makes the keys as well
  kTimeStep,     // TimeStepArgs of a; x is the values
};

struct GateShape {
  GateRule rule = GateRule::kFixed;
  int32_t heads = 0;  // value heads
  int32_t value_dim = 0;
  // Columns of the projections; of `decay`, what decay_up takes.
  int64_t a_column = 0;
  int64_t b_column = 0;
  int64_t w_column = 0;
  int64_t decay_column = 0;
  float beta_scale = 1;
  float bound = 0;        // KdaGateArgs'
  float decay_scale = 1;  // LogSigmoidArgs'
  float low = 0;
  float dt_min = 0;
  float dt_max = 0;
};

// In host memory; what a rule has not is left out.
struct GateSource {
  const Linear* decay_up = nullptr;
  std::span<const float> a_log = {};
  std::span<const float> dt_bias = {};
  std::span<const float> decay_bias = {};  // of a, [heads]
  std::span<const float> low = {};         // HgrnGateArgs', [heads, K]
  std::span<const float> log2_decay = {};  // fixed, [heads]
  std::span<const float> beta = {};        // fixed, [heads]
};

class RecurrentGates {
 public:
  struct Arrays {
    void* narrow = nullptr;       // what decay_up takes, rounded
    float* f = nullptr;           // [tokens, decay_up.outputs]
    float* log2_decay = nullptr;  // [tokens, heads or heads K]
    float* beta = nullptr;        // [tokens, writes, heads]
    float* a = nullptr;           // [tokens, heads, K]
    float* keys = nullptr;        // [tokens, heads, K]
    float* values = nullptr;      // [tokens, heads, V]
  };

  RecurrentGates() = default;
  // RESOURCE_EXHAUSTED, INTERNAL; UNIMPLEMENTED for a rank that no product
  // takes.
  static absl::StatusOr<RecurrentGates> Take(const GateShape& shape,
                                             const FrontShape& front,
                                             const GateSource& from,
                                             DeviceWeights& weights);

  // Whether each key channel has a decay of its own.
  bool by_key() const;
  // Whether it makes keys, or values, of its own.
  bool has_keys() const;
  bool has_values() const;
  // Whether chunk.h has the decay and the correction.
  bool fits_chunks() const;

  Arrays Place(Workspace& workspace, int64_t padded_tokens) const;
  absl::Status Forward(const DeviceInput& input,
                       const MixerFront& front,
                       const MixerFront::Arrays& mixed,
                       const Arrays& arrays) const;
  // Sets what the gates made, in a recurrence of the front's q, k and v.
  void FillIn(const Arrays& arrays, RecurrenceArgs& step) const;

 private:
  int64_t keys() const { return int64_t{shape_.heads} * front_.key_dim; }
  int64_t values() const { return int64_t{shape_.heads} * shape_.value_dim; }
  cudaError_t HeadGates(const DeviceInput& input,
                        const MixerFront& front,
                        const MixerFront::Arrays& mixed,
                        const Arrays& arrays) const;
  cudaError_t KeyGates(const DeviceInput& input,
                       const MixerFront& front,
                       const MixerFront::Arrays& mixed,
                       const Arrays& arrays) const;
  cudaError_t Corrections(const DeviceInput& input,
                          const MixerFront& front,
                          const MixerFront::Arrays& mixed,
                          const Arrays& arrays) const;

  GateShape shape_;
  FrontShape front_;
  DeviceLinear decay_up_;
  DeviceMemory a_log_;
  DeviceMemory dt_bias_;
  DeviceMemory decay_bias_;
  DeviceMemory low_;
  DeviceMemory log2_decay_;
  DeviceMemory beta_;
};

}  // namespace weir::engine
