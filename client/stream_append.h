// SPDX-License-Identifier: Apache-2.0
//
// Feeds a long run of tokens to a session as pipelined appends on one Stream.
// At most `window` appends are unanswered, so the memory used does not depend
// on the length. A broken stream is opened again: the session's position is
// asked for, and what is unanswered is sent again, accepted or not: the server
// compares it, the position makes that exactly-once, and a duplicate brings the
// scores that were lost. Nothing is appended after a conflict.
//
// Threads: runs on its caller's thread, both callbacks too; a second thread
// reads the stream while it runs.
#pragma once

#include <cstdint>
#include <functional>
#include <span>
#include <string>
#include <string_view>

#include "absl/status/statusor.h"
#include "client/client.h"

namespace weir::client {

struct StreamAppendOptions {
  uint32_t append_tokens = 256;  // of one append, at most
  int window = 16;               // unanswered appends, at most
  bool want_scores = true;
  v1::Durability durability = v1::DURABILITY_UNSPECIFIED;
};

// What a source gave.
struct TokenRead {
  size_t tokens = 0;  // written to the front of the span; may be fewer
  bool end = false;   // nothing comes after these
};
// Fills the span with the next tokens. It may wait, but not for long: answers
// are handled between two calls. {0, false} is "none yet".
using TokenSource =
    std::function<absl::StatusOr<TokenRead>(std::span<uint32_t> room)>;

struct StreamTotals {
  uint64_t position = 0;          // after the last answered append
  uint64_t tokens = 0;            // answered, duplicates included
  uint64_t duplicate_tokens = 0;  // had been in the log before their append
  uint64_t scored_tokens = 0;
  double sum_log_prob = 0;  // natural log
  int resumes = 0;          // how often the stream was opened again
};

// One answered append.
struct AppendedPart {
  uint64_t start = 0;
  uint64_t tokens = 0;
  // One a token, NaN where there is none; empty if none were asked for.
  std::span<const float> scores;
};
using OnAppended =
    std::function<void(const AppendedPart& part, const StreamTotals& totals)>;

// Appends everything that `source` gives from `position` on. DATA_LOSS if the
// session has gone back behind an answered append.
absl::StatusOr<StreamTotals> StreamAppend(Client& client,
                                          std::string_view session_id,
                                          uint64_t position,
                                          const StreamAppendOptions& options,
                                          const TokenSource& source,
                                          const OnAppended& on_appended);

}  // namespace weir::client
