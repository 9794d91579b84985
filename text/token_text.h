// SPDX-License-Identifier: Apache-2.0
//
// The bytes that a token stands for, as the decoder part of tokenizer.json
// says.
//
// A token's bytes do not depend on its neighbours, but for the first token of a
// text, so a text can be decoded as its tokens come.
//
// Threads: constant after construction; used from any.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

#include "text/normalizer.h"

namespace weir::text {

// Takes up to `start` of `character` from a token's front, `stop` from its
// back.
struct StripStep {
  std::string character;  // one
  uint32_t start = 0;
  uint32_t stop = 0;
};

// `replacement` becomes a space; in the first token nothing, if so asked.
struct SpaceStep {
  std::string replacement;  // one character
  bool drop_first = true;
};

// What is done to each token by itself, and then to what they make together.
struct TokenText {
  enum class Bytes {
    kText,      // a token is its own text
    kLevel,     // its characters spell bytes
    kFallback,  // but for <0x..>, which is a byte
  };
  std::vector<std::variant<ReplaceStep, StripStep, SpaceStep>> steps;
  Bytes bytes = Bytes::kText;
  StripStep whole;  // of the whole text; `stop` is 0

  // The bytes of one token; `first`: of a text.
  std::string Render(std::string_view token, bool first) const;
};

}  // namespace weir::text
