// SPDX-License-Identifier: Apache-2.0
//
// What a model's folder holds, for programs: one JSON object. `weir models
// inspect` shows it to people.
//
// Threads: a function of its arguments.
#pragma once

#include <optional>
#include <string>

#include "engine/engine.h"
#include "text/tokenizer.h"

namespace weir::server {

// {"folder", "family", "parameters", "parameters_of": {"bf16": ...},
// "weight_bytes", "layers", "vocabulary", "state_bytes", "slot_bytes",
// "sessions_per_gib", "state": [{"name", "shape", "bytes"}, ...],
// "trained_length", "positions_max", "start_token", "tokenizer": {"kind",
// "tokens"}, "notes"}, in this order; null where the checkpoint does not say,
// has no tokenizer, or sets a session no limit.
std::string InspectionJson(const std::string& folder,
                           const engine::ModelInfo& model,
                           const std::optional<text::Tokenizer>& tokenizer);

}  // namespace weir::server
