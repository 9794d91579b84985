// SPDX-License-Identifier: Apache-2.0
//
// JSON of files that nobody vouches for: bounded in depth and in values, and no
// key twice in one object. Read in one pass; never throws, never recurses.
//
// Threads: pure functions.
#pragma once

#include <cstddef>
#include <string_view>

#include "absl/status/statusor.h"
#include "nlohmann/json.hpp"

namespace weir::text {

struct JsonBounds {
  size_t depth = 32;
  size_t values = 4'000'000;  // objects, arrays, keys and scalars together
};

// INVALID_ARGUMENT with what is wrong and where.
absl::StatusOr<nlohmann::json> ParseBoundedJson(std::string_view text,
                                                const JsonBounds& bounds);

}  // namespace weir::text
