// SPDX-License-Identifier: Apache-2.0
//
// Matches of a regular expression in a text, by PCRE2. What a match may cost is
// bounded: by PCRE2's own limits for one step, and by processor time for a
// whole text; beyond a bound the text is refused.
//
// Debian 12's PCRE2 knows Unicode 14. A character assigned since is of no
// category to it, so a tokenizer may cut words around it otherwise than where
// its model was trained.
//
// Threads: a Regex is constant, and any thread may use it; a Matcher belongs to
// one thread.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <string_view>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"

// PCRE2's own types, whose header stays out of this one.
struct pcre2_real_code_8;
struct pcre2_real_match_data_8;
struct pcre2_real_match_context_8;
struct pcre2_real_jit_stack_8;

namespace weir::text {

class Regex {
 public:
  // `pattern` as in PCRE2, UTF-8, ^ and $ at lines. INVALID_ARGUMENT if it
  // cannot be compiled.
  static absl::StatusOr<Regex> Compile(std::string_view pattern);

 private:
  friend class Matcher;
  std::shared_ptr<const pcre2_real_code_8> code_;
};

// The matching of one text.
class Matcher {
 public:
  struct Match {
    bool found = false;
    size_t begin = 0;
    size_t end = 0;
  };

  // `text_bytes`: of the whole text, by which the time is bounded.
  explicit Matcher(size_t text_bytes);
  ~Matcher();
  Matcher(const Matcher&) = delete;
  Matcher& operator=(const Matcher&) = delete;

  // Looks for the first match that begins at text[from] or later.
  // INVALID_ARGUMENT if that takes too long.
  // REQUIRES: `text` is valid UTF-8 and `from` the start of a character.
  absl::Status Find(const Regex& regex,
                    std::string_view text,
                    size_t from,
                    Match& match);

 private:
  int Try(const Regex& regex, std::string_view text, size_t from);
  absl::Status CheckTime();

  const absl::Duration allowed_;
  uint32_t until_check_ = 0;
  absl::Duration wall_start_;
  absl::Duration processor_start_;
  pcre2_real_match_data_8* data_ = nullptr;
  pcre2_real_match_context_8* context_ = nullptr;
  pcre2_real_jit_stack_8* stack_ = nullptr;
};

}  // namespace weir::text
