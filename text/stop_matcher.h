// SPDX-License-Identifier: Apache-2.0
//
// Looks for stop strings in a text as it comes. What may be the beginning of a
// stop string is held back until it is known not to be; a stop string itself is
// never shown.
//
// The first stop string to be complete ends the text; of several that end with
// the same byte, the longest.
//
// Threads: not thread-safe.
#pragma once

#include <cstddef>
#include <string>
#include <string_view>
#include <vector>

namespace weir::text {

class StopMatcher {
 public:
  // REQUIRES: no stop string is empty.
  explicit StopMatcher(std::vector<std::string> stops);

  // Adds text; returns what can be shown. Ignored after a stop string.
  std::string Push(std::string_view text);
  // Returns what is held back: the text has ended without a stop string.
  std::string Flush();
  // The stop string that ended the text; null while none has.
  const std::string* stop() const;

 private:
  // A stop string and how much of it the text ends with (Knuth, Morris, Pratt).
  struct Pattern {
    std::string text;
    // failure[n]: the longest proper prefix that text[0, n] ends with.
    std::vector<size_t> failure;
    size_t matched = 0;
  };
  static void Advance(Pattern& pattern, char c);

  std::vector<Pattern> patterns_;
  std::string held_;
  const Pattern* found_ = nullptr;
};

}  // namespace weir::text
