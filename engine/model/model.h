// SPDX-License-Identifier: Apache-2.0
//
// A language model of recurrent layers: embedding, layers around an fp32
// residual stream, final norm, head. Weights are held as fp32.
//
// Threads: not thread-safe, its workspace is reused; the step thread owns it.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "engine/engine.h"
#include "engine/mixers/decoder_spec.h"
#include "engine/model/checkpoint.h"
#include "engine/model/layer.h"
#include "engine/state/state_pool.h"

namespace weir::engine {

class Model {
 public:
  struct Options {
    int64_t pass_tokens_max = 0;  // the workspace is sized for these
    bool allow_nonfinite = false;
    // For who takes the weights to another device: parts have theirs from
    // LoadPart to DropPart only, so that host memory need not hold them all.
    bool parts_in_turn = false;
  };

  // INVALID_ARGUMENT, NOT_FOUND or DATA_LOSS for a folder that is refused,
  // RESOURCE_EXHAUSTED for one that does not fit.
  static absl::StatusOr<std::unique_ptr<Model>> Load(const std::string& folder,
                                                     const Options& options);
  // What the folder holds. Checks all but the weights' values and takes no
  // memory for them; errors as Load.
  static absl::StatusOr<ModelInfo> Inspect(const std::string& folder);

  const ModelInfo& info() const { return info_; }
  // What a session holds. The last tensor, "output" [hidden], is the final
  // norm of its last token.
  const StateSpec& state_spec() const { return state_spec_; }
  int64_t hidden() const { return spec_.hidden; }

  // For who takes the weights to another device.
  const DecoderSpec& spec() const { return spec_; }
  const std::vector<LayerPart>& parts() const { return parts_; }
  const NormWeights* first_norm() const { return first_norm_.get(); }
  const NormWeights& final_norm() const { return final_norm_; }
  const Buffer& embedding() const { return embedding_; }
  // [vocabulary, hidden], also where it is the embedding.
  const Buffer& head() const { return spec_.tied ? embedding_ : head_; }

  // Reads the weights of parts()[index]. DATA_LOSS, RESOURCE_EXHAUSTED.
  // REQUIRES: parts_in_turn.
  absl::Status LoadPart(size_t index);
  // Gives back their memory; the part's mixer is null after.
  void DropPart(size_t index);
  // Likewise of embedding() and head().
  void DropTables();

  // Feeds the batch's tokens to the states of its rows, but for "output".
  // Returns the final norm's rows [batch.tokens, hidden], good until the next
  // call. REQUIRES: batch.tokens <= pass_tokens_max, tokens in the vocabulary.
  const float* Forward(const Batch& batch,
                       const uint32_t* tokens,
                       StatePool& pool);

  // logits [rows, vocabulary] of rows of Forward's result.
  void Logits(const float* outputs, int64_t rows, float* logits) const;

 private:
  Model(DecoderSpec spec, const Options& options);

  static absl::StatusOr<std::unique_ptr<Model>> Make(
      const Checkpoint& checkpoint, const Options& options);
  // Where the checkpoint's tensors go, each of its right shape; those of parts
  // not, if they come in turn. Fills info_.
  absl::StatusOr<std::vector<WeightSlot>> Place(const Checkpoint& checkpoint);
  void Describe(const Checkpoint& checkpoint,
                const std::vector<WeightSlot>& slots);
  void Embed(const uint32_t* tokens, int64_t count);
  // Adds part_ to the residual stream and takes its norm.
  void AddAndNorm(const NormWeights& norm, int64_t tokens);

  const DecoderSpec spec_;
  const Options options_;
  std::unique_ptr<Checkpoint> checkpoint_;  // of parts_in_turn
  ModelInfo info_;
  StateSpec state_spec_;
  Buffer embedding_;                         // [vocabulary, hidden]
  std::unique_ptr<NormWeights> first_norm_;  // null: there is none
  std::vector<LayerPart> parts_;             // of all layers, in order
  NormWeights final_norm_;
  Buffer head_;  // [vocabulary, hidden]; empty if tied
  // The workspace, [pass_tokens_max, ...] each.
  Buffer residual_;
  Buffer normed_;
  Buffer part_;    // what a part adds to the residual stream
  Buffer shared_;  // what layers leave for those after them
  Buffer workspace_;
};

}  // namespace weir::engine
