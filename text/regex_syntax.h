// SPDX-License-Identifier: Apache-2.0
//
// Regular expressions of tokenizer files, which are written for Oniguruma,
// in the words of PCRE2. The two agree on most of what tokenizers use and
// differ quietly on some: what \s and \w mean, which script a character is of,
// what stands for a line's end. What is not known to mean the same is refused.
//
// Understood: literals, ., ^, $, |, groups (?: (?i: (?= (?! (?<= (?<! (?> and
// plain ones; * + ? {n} {n,} {n,m} {,m}, lazy, and possessive but for braces;
// classes of characters, ranges and escapes; \s \S \d \D \w \W, \p and \P with
// a general category or a script, \n \r \t \f \v \a \e, \xHH below 80, \x{H},
// \uHHHH, \A, \z, escaped punctuation.
//
// Threads: pure functions.
#pragma once

#include <string>
#include <string_view>

#include "absl/status/statusor.h"

namespace weir::text {

constexpr size_t kPatternBytesMax = 4096;

// INVALID_ARGUMENT with what is not understood, and at which byte.
absl::StatusOr<std::string> FromOniguruma(std::string_view pattern);

}  // namespace weir::text
