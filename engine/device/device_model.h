// SPDX-License-Identifier: Apache-2.0
//
// A language model of recurrent layers on a GPU: Model's forward pass, with
// weights and what products take as bf16 or fp32, the residual stream as fp32.
//
// Threads: the step thread. Forward and Logits only put work on the stream.
#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "engine/device/device_part.h"
#include "engine/device/device_weights.h"
#include "engine/device/products.h"
#include "engine/kernels/cuda/layer_rows.h"
#include "engine/model/model.h"
#include "engine/state/state_form.h"

namespace weir::engine {

class DeviceModel {
 public:
  struct Options {
    StateNumber number = StateNumber::kBfloat16;  // of weights and products
    StateNumber state_number = StateNumber::kFloat32;  // of states at rest
    StateForm state_form = StateForm::kWrite;
    int64_t pass_tokens_max = 0;  // the workspace is sized for these
  };

  // Takes the weights of `from` part by part and leaves it without.
  // REQUIRES: it has its parts in turn.
  // UNIMPLEMENTED for a part that runs on a CPU only, or has not the form of
  // state, naming the layer;
  // RESOURCE_EXHAUSTED, INTERNAL.
  static absl::StatusOr<std::unique_ptr<DeviceModel>> Create(
      Model& from, const Options& options);

  // What a session holds. The last tensor, "output" [hidden], is the final norm
  // of its last token.
  const std::vector<DeviceTensor>& state() const { return state_; }
  int32_t hidden() const { return hidden_; }
  int32_t vocabulary() const { return vocabulary_; }
  StateNumber number() const { return options_.number; }

  // Feeds the batch's tokens to the states of its rows, but for "output".
  // Returns the final norm's rows [batch.tokens, hidden] of number(), good
  // until the next call. REQUIRES: batch.tokens <= pass_tokens_max.
  absl::StatusOr<const void*> Forward(const DeviceBatch& batch,
                                      const uint32_t* tokens,
                                      DevicePool& pool,
                                      cudaStream_t stream);
  // logits fp32 [PaddedTokens(count), vocabulary] of as many output rows.
  absl::Status Logits(const void* outputs,
                      int64_t count,
                      float* logits,
                      cudaStream_t stream);
  // The slots' output rows in the pool.
  OutputRows OutputsOf(const DevicePool& pool) const;

 private:
  struct DeviceNorm {
    NormArgs args;
    DeviceMemory weight;
    DeviceMemory bias;
  };
  struct Placed {
    DeviceNorm norm;
    std::unique_ptr<DevicePart> part;
    size_t state = 0;  // its first tensor in the pool
  };

  DeviceModel(const Model& from, const Options& options);

  static absl::StatusOr<DeviceNorm> NormOf(const NormWeights& from,
                                           DeviceWeights& weights);
  absl::Status TakeWeights(Model& from);
  absl::Status TakeParts(Model& from, DeviceWeights& weights);
  absl::Status TakeWorkspace();

  const Options options_;
  const int32_t hidden_;
  const int32_t vocabulary_;
  const float logit_cap_;
  std::unique_ptr<Products> products_;
  std::vector<DeviceTensor> state_;
  DeviceMemory embedding_;  // [vocabulary, hidden]
  DeviceMemory head_;       // likewise; nothing if tied
  std::unique_ptr<DeviceNorm> first_norm_;
  DeviceNorm final_norm_;
  std::vector<Placed> parts_;
  // [padded tokens, hidden] each.
  DeviceMemory residual_;
  DeviceMemory rows_;
  DeviceMemory workspace_;
  DeviceMemory shared_;  // what layers leave for those after them
};

}  // namespace weir::engine
