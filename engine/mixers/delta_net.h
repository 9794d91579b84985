// SPDX-License-Identifier: Apache-2.0
//
// DeltaNet (arXiv 2406.06484) as flash-linear-attention's checkpoints have it:
//
//   q, k, v = silu(conv(W x))      q, k of norm one per head, q times K^-1/2
//   beta = sigmoid(b), per head
//   S <- S + k (beta (v - S^T k))^T;  o = S^T q
//   out = W_o (rmsnorm(o) * w * silu(g)), the gate where there is one
//
// Threads: as mixer.h.
#pragma once

#include <cstdint>
#include <vector>

#include "engine/kernels/pointwise.h"
#include "engine/mixers/decoder_spec.h"
#include "engine/mixers/head_output.h"
#include "engine/mixers/mixer.h"
#include "engine/mixers/qkv_projection.h"

namespace weir::engine {

struct DeltaNetShape {
  QkvShape qkv;
  bool beta = true;  // false: 1 everywhere
  bool gate = false;
  bool negative_eigenvalues = false;
  HeadNorm norm = HeadNorm::kL2;  // of queries and keys
  float eps = 0;
};

class DeltaNet final : public Mixer {
 public:
  explicit DeltaNet(const DeltaNetShape& shape);

  const DeltaNetShape& shape() const { return shape_; }
  const QkvProjection& qkv() const { return qkv_; }
  const HeadOutput& output() const { return output_; }
  // Columns of the projection.
  int64_t gate_column() const { return qkv_.mixed(); }
  int64_t b_column() const { return qkv_.mixed() + b_column_; }

  std::vector<WeightSlot> Weights() override;
  std::vector<StateTensor> State() const override;
  int64_t workspace_floats() const override;
  void Forward(const MixerInput& input,
               float* workspace,
               float* out) const override;

 private:
  int64_t values() const { return qkv_.values(); }

  const DeltaNetShape shape_;
  const int64_t b_column_;  // behind the gate's
  QkvProjection qkv_;
  HeadOutput output_;
  const std::vector<float> no_decay_;  // [heads]
};

// flash-linear-attention's model_type delta_net.
void ReadDeltaNet(ConfigFields& fields, DecoderSpec& spec);

}  // namespace weir::engine
