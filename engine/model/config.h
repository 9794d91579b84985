// SPDX-License-Identifier: Apache-2.0
//
// What a model's config.json says, checked: every value that matters is in
// range, and a key that might matter and is not understood is refused by name.
//
// Threads: plain values.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <variant>

#include "absl/status/statusor.h"
#include "engine/mixers/gated_delta_net.h"
#include "engine/mixers/mamba2.h"

namespace weir::engine {

struct ModelConfig {
  std::string family;  // "gated_deltanet", "mamba2"
  int32_t layers = 0;
  int32_t hidden = 0;
  int32_t intermediate = 0;  // of the feed-forward part; 0: there is none
  int32_t vocabulary = 0;
  float eps = 0;                // of the norms between the layers
  bool tied = false;            // the head is the embedding
  uint64_t trained_length = 0;  // 0: not said
  std::optional<uint32_t> start_token;
  std::variant<GatedDeltaNetShape, Mamba2Shape> mixer;
};

// INVALID_ARGUMENT whose message begins with CONFIG and names `path` and the
// key.
absl::StatusOr<ModelConfig> ParseConfig(std::string_view text,
                                        const std::string& path);

}  // namespace weir::engine
