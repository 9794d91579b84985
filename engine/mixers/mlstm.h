// SPDX-License-Identifier: Apache-2.0
//
// mLSTM, the mixer of xLSTM-7B (arXiv 2503.13427), as transformers' checkpoints
// have it:
//
//   q, k, v, o = W x      i, f = cap tanh((W_if x + b) / cap), per head
//   C, n, m by exponential gates; h = C^T q over n^T q: kernels/mlstm.h
//   out = W_out (layernorm(h) w sigmoid(o)), the norm one a head
//
// Threads: as mixer.h.
#pragma once

#include <cstdint>
#include <vector>

#include "engine/mixers/decoder_spec.h"
#include "engine/mixers/mixer.h"

namespace weir::engine {

struct MlstmShape {
  int32_t hidden = 0;
  int32_t heads = 0;
  int32_t key_dim = 0;    // K, of one head
  int32_t value_dim = 0;  // V, of one head
  bool fused = false;     // q, k, v and o are one tensor, i and f another
  float gate_cap = 0;
  float eps = 0;       // of h
  float norm_eps = 0;  // of the norm over a head
};

class Mlstm final : public Mixer {
 public:
  explicit Mlstm(const MlstmShape& shape);

  const MlstmShape& shape() const { return shape_; }

  std::vector<WeightSlot> Weights() override;
  std::vector<StateTensor> State() const override;
  int64_t workspace_floats() const override;
  void Forward(const MixerInput& input,
               float* workspace,
               float* out) const override;

 private:
  // Where the parts of one token lie in the workspace.
  struct Parts {
    float* projected;  // q, k, v, o
    float* gates;      // i, f
    float* log2_decay;
    float* write;
    float* floor;
    float* values;  // [heads, V + 1], later h [heads, V]
    float* sums;    // [heads, V + 1]
  };

  int64_t keys() const { return int64_t{shape_.heads} * shape_.key_dim; }
  int64_t values() const { return int64_t{shape_.heads} * shape_.value_dim; }

  void Gate(const MixerInput& input, const Parts& parts) const;
  // h, from the parts that Gate left.
  void Recur(const MixerInput& input, const Parts& parts) const;

  const MlstmShape shape_;
  Linear projection_;  // q, k, v, o
  Linear gates_;       // i, f
  Linear out_projection_;
  Buffer norm_;  // [heads, V]
};

// transformers' model_type xlstm.
void ReadXlstm(ConfigFields& fields, DecoderSpec& spec);

}  // namespace weir::engine
