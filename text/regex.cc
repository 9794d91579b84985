// SPDX-License-Identifier: Apache-2.0
#include "text/regex.h"

#include <algorithm>
#include <ctime>

#include "text/refusal.h"
#include "text/utf8.h"

#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>

namespace weir::text {
namespace {

// Backtracking of one step: some milliseconds.
constexpr uint32_t kMatchLimit = 10'000'000;
constexpr uint32_t kHeapKibibytesMax = 64 << 10;
// Without it PCRE2 uses 32 KiB of the thread's own stack.
constexpr size_t kStackBytesMin = size_t{64} << 10;
constexpr size_t kStackBytesMax = size_t{32} << 20;
// Starts that are tried in one step: each may read the rest of the text.
constexpr size_t kStartsAtOnce = 256;
// Steps between two looks at the clock.
constexpr uint32_t kStepsUnwatched = 4;
// Ordinary text takes 0.05 us a byte.
constexpr absl::Duration kAllowed = absl::Milliseconds(500);
constexpr absl::Duration kAllowedPerByte = absl::Microseconds(1);

absl::Duration Now(clockid_t clock) {
  timespec now;
  clock_gettime(clock, &now);
  return absl::DurationFromTimespec(now);
}

std::string Reason(int code) {
  unsigned char text[128] = {};
  pcre2_get_error_message(code, text, sizeof(text));
  return reinterpret_cast<const char*>(text);
}

PCRE2_SPTR Units(std::string_view text) {
  return reinterpret_cast<PCRE2_SPTR>(text.data());
}

}  // namespace

absl::StatusOr<Regex> Regex::Compile(std::string_view pattern) {
  const std::unique_ptr<pcre2_compile_context, void (*)(pcre2_compile_context*)>
      context(pcre2_compile_context_create(nullptr),
              pcre2_compile_context_free);
  pcre2_set_newline(context.get(), PCRE2_NEWLINE_LF);
  constexpr uint32_t kOptions =
      PCRE2_UTF | PCRE2_UCP | PCRE2_MULTILINE | PCRE2_NO_AUTO_CAPTURE |
      PCRE2_NEVER_BACKSLASH_C | PCRE2_USE_OFFSET_LIMIT;
  int error = 0;
  size_t at = 0;
  pcre2_code* code = pcre2_compile(
      Units(pattern), pattern.size(), kOptions, &error, &at, context.get());
  if (code == nullptr) {
    return Refusal("the regular expression ",
                   Quoted(pattern),
                   " cannot be compiled: ",
                   Reason(error),
                   " at byte ",
                   at);
  }
  // Where memory may not be made executable, the interpreter does the work.
  pcre2_jit_compile(code, PCRE2_JIT_COMPLETE);
  Regex out;
  out.code_ = std::shared_ptr<const pcre2_code>(code, [](const pcre2_code* c) {
    pcre2_code_free(const_cast<pcre2_code*>(c));
  });
  return out;
}

Matcher::Matcher(size_t text_bytes)
    : allowed_(kAllowed + kAllowedPerByte * static_cast<int64_t>(text_bytes)),
      wall_start_(Now(CLOCK_MONOTONIC)),
      processor_start_(Now(CLOCK_THREAD_CPUTIME_ID)),
      data_(pcre2_match_data_create(1, nullptr)),
      context_(pcre2_match_context_create(nullptr)) {
  pcre2_set_match_limit(context_, kMatchLimit);
  pcre2_set_heap_limit(context_, kHeapKibibytesMax);
}

Matcher::~Matcher() {
  pcre2_match_data_free(data_);
  pcre2_match_context_free(context_);
  if (stack_ != nullptr) pcre2_jit_stack_free(stack_);
}

int Matcher::Try(const Regex& regex, std::string_view text, size_t from) {
  const auto match = [&] {
    return pcre2_match(regex.code_.get(),
                       Units(text),
                       text.size(),
                       from,
                       PCRE2_NO_UTF_CHECK,
                       data_,
                       context_);
  };
  const int code = match();
  if (code != PCRE2_ERROR_JIT_STACKLIMIT || stack_ != nullptr) return code;
  stack_ = pcre2_jit_stack_create(kStackBytesMin, kStackBytesMax, nullptr);
  if (stack_ == nullptr) return code;
  pcre2_jit_stack_assign(context_, nullptr, stack_);
  return match();
}

absl::Status Matcher::Find(const Regex& regex,
                           std::string_view text,
                           size_t from,
                           Match& match) {
  match.found = false;
  while (from <= text.size()) {
    if (absl::Status late = CheckTime(); !late.ok()) return late;
    const size_t last = std::min(from + kStartsAtOnce, text.size());
    pcre2_set_offset_limit(context_, last);
    const int code = Try(regex, text, from);
    if (code >= 0) {
      const size_t* ends = pcre2_get_ovector_pointer(data_);
      match = {true, ends[0], ends[1]};
      return absl::OkStatus();
    }
    if (code != PCRE2_ERROR_NOMATCH) {
      return Refusal("the text takes the tokenizer's regular expression ",
                     "beyond its limits: ",
                     Reason(code));
    }
    from = last + 1;
    while (from < text.size() && (text[from] & 0xc0) == 0x80) ++from;
  }
  return absl::OkStatus();
}

// The thread's own time, which other work on the machine does not count in, but
// costs a system call: read only once the wall clock says that it may matter.
absl::Status Matcher::CheckTime() {
  if (until_check_-- > 0) return absl::OkStatus();
  until_check_ = kStepsUnwatched;
  if (Now(CLOCK_MONOTONIC) - wall_start_ < allowed_) return absl::OkStatus();
  if (Now(CLOCK_THREAD_CPUTIME_ID) - processor_start_ < allowed_) {
    return absl::OkStatus();
  }
  return Refusal("the text takes the tokenizer's regular expression more than ",
                 absl::FormatDuration(allowed_));
}

}  // namespace weir::text
