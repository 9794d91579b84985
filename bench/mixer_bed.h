// SPDX-License-Identifier: Apache-2.0
//
// One mixer of a configuration with random weights, alone: no norm, no MLP, no
// embedding around it.
//
// Threads: one caller.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "engine/mixers/decoder_spec.h"
#include "engine/state/state_pool.h"

namespace weir::bench {

class MixerBed {
 public:
  // The mixer of the last layer that `config`, the text of a config.json,
  // describes: layers may lean on those before them.
  static absl::StatusOr<std::unique_ptr<MixerBed>> Create(
      const std::string& config);

  // Slots for `rows` sessions, and room for `tokens` tokens in a pass.
  absl::Status Hold(int32_t rows, int64_t tokens);

  // One pass of `tokens` tokens for each of the first `rows` sessions. The
  // output must be finite. What the kernels were given lives until the next
  // pass.
  absl::Status Forward(int32_t rows, int64_t tokens);

  int64_t state_bytes() const;         // one session's
  int64_t projection_weights() const;  // in products with a token's channels

 private:
  explicit MixerBed(engine::DecoderSpec spec);

  absl::Status FillWeights();

  engine::DecoderSpec spec_;
  std::unique_ptr<engine::Mixer> mixer_;
  std::unique_ptr<engine::StatePool> pool_;
  std::vector<int32_t> slots_;
  std::vector<int32_t> row_starts_;  // of the last pass
  engine::Buffer x_;
  engine::Buffer out_;
  engine::Buffer workspace_;
  engine::Buffer shared_;
};

}  // namespace weir::bench
