// SPDX-License-Identifier: Apache-2.0
//
// Whether a model that was loaded computes at all. Weights may each be finite
// and overflow together; then every session would be lost at its first token.
//
// Threads: as engine.h, before the step thread has the engine.
#pragma once

#include <string>

#include "absl/status/status.h"
#include "engine/engine.h"

namespace weir::engine {

// Feeds tokens from all over the vocabulary to a slot, in a row long enough for
// chunks and then one by one, scores them and draws three. The slot is given
// back: nothing is left of it. FAILED_PRECONDITION beginning with SELF_TEST,
// the folder and what is not finite; or what the engine says.
absl::Status SelfTest(Engine& engine, const std::string& model_dir);

}  // namespace weir::engine
