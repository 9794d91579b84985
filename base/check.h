// SPDX-License-Identifier: Apache-2.0
//
// Assertions for our own mistakes: they stay on in production, say what and
// where, and end the process. What a client or a file can cause is a Status.
#pragma once

#include <cstdio>
#include <cstdlib>

namespace weir::base {

[[noreturn]] inline void CheckFailed(const char* file,
                                     int line,
                                     const char* condition) {
  std::fprintf(stderr, "%s:%d: CHECK failed: %s\n", file, line, condition);
  std::abort();
}

}  // namespace weir::base

#define WEIR_CHECK(condition)                                    \
  do {                                                           \
    if (!(condition)) [[unlikely]] {                             \
      ::weir::base::CheckFailed(__FILE__, __LINE__, #condition); \
    }                                                            \
  } while (false)
