// SPDX-License-Identifier: Apache-2.0
//
// Causal Linformer (after arXiv 2006.04768), in a layout of our own
// (docs/checkpoints.md): keys and values are added up in M slots by weights
// that depend on the position alone, row t of E and of F. Per head:
//
//   q, k, v = W x + b, q times d^-1/2
//   o by slot_recurrence.h with e = E_t, f = F_t and no decay
//   out = W_o o + b
//
// The biases of k and v are part of what is added up, or they are added once
// to each slot: then that of k, the same in all scores, falls out of the
// softmax, and that of v is added to o.
//
// E and F have n_max rows. Past them the outputs are NaN, or the states begin
// anew at each multiple of n_max: a decay of zero there.
//
// Threads: as mixer.h.
#pragma once

#include <cstdint>
#include <vector>

#include "engine/mixers/decoder_spec.h"
#include "engine/mixers/mixer.h"
#include "engine/mixers/plain_qkv.h"
#include "engine/mixers/slot_recurrence.h"

namespace weir::engine {

// Who has an E and an F of its own: each head, or all heads of a layer; or all
// heads, and E is F.
enum class SlotSharing { kNone, kHeadwise, kKeyValue };

struct LinformerShape {
  PlainQkvShape qkv;
  int32_t slots = 0;  // M
  int32_t n_max = 0;
  SlotSharing sharing = SlotSharing::kHeadwise;
  bool project_first = true;  // k and v are projected, then added up
  bool new_segment = false;   // past n_max
};

class Linformer final : public Mixer {
 public:
  explicit Linformer(const LinformerShape& shape);

  const LinformerShape& shape() const { return shape_; }

  std::vector<WeightSlot> Weights() override;
  std::vector<StateTensor> State() const override;
  int64_t workspace_floats() const override;
  void Forward(const MixerInput& input,
               float* workspace,
               float* out) const override;

 private:
  // Where the parts of one pass lie in the workspace, [T, ...] each.
  struct Parts {
    float* key_write;    // [heads, M]
    float* value_write;  // [heads, M]
    float* weights;      // [heads, M]
    float* log2_decay;   // [heads]
    float* out;          // [heads, V]
  };

  int64_t slots() const { return int64_t{shape_.qkv.heads} * shape_.slots; }
  SlotShape slot_shape() const;
  // The rows of E and F, and the decays, of each token by its position, which
  // moves on.
  void Place(const MixerInput& input, const Parts& parts) const;
  // The rows of one token into [heads, M].
  void CopyRows(const Buffer& compress, int64_t position, float* to) const;

  const LinformerShape shape_;
  PlainQkv qkv_;
  Buffer compress_k_;  // [n_max, M], or [heads, n_max, M]
  Buffer compress_v_;  // likewise; empty if E is F
};

// Our own model_type weir_linformer.
void ReadLinformer(ConfigFields& fields, DecoderSpec& spec);

}  // namespace weir::engine
