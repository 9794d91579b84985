// SPDX-License-Identifier: Apache-2.0
//
// The string literals of Python that RWKV vocabularies are written in.
//
// Threads: pure functions.
#pragma once

#include <string>
#include <string_view>

#include "absl/status/statusor.h"

namespace weir::text {

// The bytes of a literal such as 'a\n', "\u20ac" or b'\xf0': a text's UTF-8, or
// the bytes themselves. INVALID_ARGUMENT, with what is wrong, for anything
// else: other prefixes, unknown escapes, \N{...}, surrogates, a loose quote.
absl::StatusOr<std::string> ParsePythonLiteral(std::string_view literal);

}  // namespace weir::text
