// SPDX-License-Identifier: Apache-2.0
//
// Gated DeltaProduct (arXiv 2502.10297) as flash-linear-attention's checkpoints
// have it: n writes by the delta rule a token, one decay before the first, one
// readout after the last.
//
//   q = silu(conv(W x));  k_j, v_j = silu(conv(W_j x)), j = 1..n
//   q, k_j of length one per head, q times K^-1/2
//   d = exp(-exp(A_log) softplus(a + dt_bias)) per head, or 1
//   beta_j = sigmoid(b_j), or twice that
//   S <- d S;  S <- S + k_j (beta_j (v_j - S^T k_j))^T for each j;  o = S^T q
//   out = W_o (rmsnorm(o) * w * silu(g)), the gate where there is one
//
// Threads: as mixer.h.
#pragma once

#include <cstdint>
#include <vector>

#include "engine/mixers/decoder_spec.h"
#include "engine/mixers/head_output.h"
#include "engine/mixers/mixer.h"
#include "engine/mixers/qkv_projection.h"

namespace weir::engine {

// Writes of a token that configurations may ask for.
inline constexpr int64_t kWritesMax = 32;

struct GatedDeltaProductShape {
  QkvShape qkv;  // writes: n
  bool decay = false;
  bool gate = true;
  bool negative_eigenvalues = false;
  float eps = 0;
};

class GatedDeltaProduct final : public Mixer {
 public:
  explicit GatedDeltaProduct(const GatedDeltaProductShape& shape);

  const GatedDeltaProductShape& shape() const { return shape_; }
  const QkvProjection& qkv() const { return qkv_; }
  const HeadOutput& output() const { return output_; }
  const Buffer& a_log() const { return a_log_; }      // [heads], or empty
  const Buffer& dt_bias() const { return dt_bias_; }  // [heads], or empty
  // Columns of the projection.
  int64_t gate_column() const { return qkv_.mixed(); }
  int64_t a_column() const { return qkv_.mixed() + a_column_; }
  int64_t b_column() const { return qkv_.mixed() + b_column_; }

  std::vector<WeightSlot> Weights() override;
  std::vector<StateTensor> State() const override;
  int64_t workspace_floats() const override;
  void Forward(const MixerInput& input,
               float* workspace,
               float* out) const override;

 private:
  // What the recurrence takes: a row a write, n rows a token.
  struct Writes {
    float* q = nullptr;           // [T, n][key_heads, K], 0 but for the last
    float* k = nullptr;           // [T, n][key_heads, K]
    float* v = nullptr;           // [T, n][heads, V]
    float* log2_decay = nullptr;  // [T, n][heads], 0 but for the first
    float* beta = nullptr;        // [T, n][heads]
    float* out = nullptr;         // [T, n][heads, V]
    float* gates = nullptr;       // [T, 2, heads], DeltaGates' before spreading
  };

  int32_t writes() const { return shape_.qkv.writes; }
  int64_t values() const { return qkv_.values(); }
  int64_t write_floats() const;
  Writes Divide(float* workspace, int64_t tokens) const;
  void Gates(TokenRows extra, int64_t tokens, const Writes& writes) const;
  void Spread(const QkvProjection::Result& qkv,
              int64_t tokens,
              const Writes& writes) const;

  const GatedDeltaProductShape shape_;
  // Columns behind q, k and v: the gate's, then a's, then b's.
  const int64_t a_column_;
  const int64_t b_column_;
  QkvProjection qkv_;
  HeadOutput output_;
  Buffer a_log_;    // [heads]
  Buffer dt_bias_;  // [heads]
};

// flash-linear-attention's model_type gated_deltaproduct.
void ReadGatedDeltaProduct(ConfigFields& fields, DecoderSpec& spec);

}  // namespace weir::engine
