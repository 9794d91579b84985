// SPDX-License-Identifier: Apache-2.0
//
// Configurations for tests: read from the source tree, changed, parsed.
//
// Threads: none.
#pragma once

#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "engine/mixers/decoder_spec.h"
#include "nlohmann/json.hpp"

namespace weir::engine {

// config.json of a folder of the source tree.
nlohmann::json ConfigOf(const std::string& relative);

absl::StatusOr<DecoderSpec> Parse(const nlohmann::json& config);

// The parts of the first layer.
std::vector<Sublayer> LayerOf(const DecoderSpec& spec);

// REQUIRES: the part is one.
template <typename Part>
const Part& As(const Sublayer& sublayer) {
  return dynamic_cast<const Part&>(*sublayer.part);
}

struct BadValue {
  const char* key;
  const char* value;  // JSON, or nearly
};

// Each value in the place of the good one is refused, and by its key.
void ExpectRefused(const nlohmann::json& good,
                   const std::vector<BadValue>& cases);

}  // namespace weir::engine
