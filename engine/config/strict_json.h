// SPDX-License-Identifier: Apache-2.0
//
// JSON from files that nobody vouches for: bounded in depth and in values, no
// key twice in one object, UTF-8 throughout. Never throws, never recurses.
//
// Threads: functions of their arguments.
#pragma once

#include <cstddef>
#include <string>
#include <string_view>

#include "absl/status/statusor.h"
#include "nlohmann/json.hpp"

namespace weir::engine {

struct JsonLimits {
  size_t depth = 16;
  size_t values = 1'000'000;  // objects, arrays, keys and scalars together
};

// INVALID_ARGUMENT with what is wrong and where.
absl::StatusOr<nlohmann::json> ParseStrictJson(std::string_view text,
                                               const JsonLimits& limits);

// `text` for a message: at most 120 bytes of it, quoted, control characters
// and bytes beyond ASCII escaped.
std::string Quoted(std::string_view text);

// Rewrites the bare words Infinity, -Infinity and NaN, which Python writes into
// JSON, as strings of the same letters. Nothing within a string is touched.
std::string QuoteNonFiniteWords(std::string_view text);

}  // namespace weir::engine
