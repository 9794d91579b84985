// SPDX-License-Identifier: Apache-2.0
//
// What a model's config.json says, checked: every value that matters is in
// range, and a key that might matter and is not understood is refused by name.
//
// Threads: a function of its arguments.
#pragma once

#include <string>
#include <string_view>

#include "absl/status/statusor.h"
#include "engine/mixers/decoder_spec.h"

namespace weir::engine {

// INVALID_ARGUMENT whose message begins with CONFIG and names `path` and the
// key.
absl::StatusOr<DecoderSpec> ParseConfig(std::string_view text,
                                        const std::string& path);

}  // namespace weir::engine
