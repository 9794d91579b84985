// SPDX-License-Identifier: Apache-2.0
//
// What `weir stream` shows while it runs and at its end: a bar on a terminal,
// a line every few seconds otherwise, or JSON lines; and the curve for --plot.
//
// Threads: one thread.
#pragma once

#include <cstdint>
#include <optional>
#include <string>

#include "absl/status/status.h"
#include "absl/time/time.h"
#include "client/curve.h"
#include "client/document.h"
#include "client/output.h"
#include "client/progress.h"
#include "client/stream_append.h"

namespace weir::client {

// What is known before the first token.
struct StreamStart {
  std::string session_id;
  v1::Model model;
  std::string document;
  uint64_t position = 0;  // where new tokens begin
  // Of the session's tokens before that.
  uint64_t scored_tokens = 0;
  double sum_log_prob = 0;
  std::optional<uint64_t> size_bytes;  // of the document
  uint64_t bytes = 0;                  // of it, before the first token sent
};

class StreamReport {
 public:
  StreamReport(Output& out, bool json, StreamStart start, absl::Time now);

  // An append was answered; `bytes` of the document have been read so far.
  void Add(const AppendedPart& part, uint64_t bytes, absl::Time now);
  // Time in which the document had nothing to give is not the server's.
  void AddIdle(absl::Duration idle) { idle_ += idle; }
  // Draws again if it is time to.
  void Refresh(absl::Time now);
  // The last words, after success.
  void Finish(const StreamTotals& totals, absl::Time now);
  // Where the report was left.
  uint64_t position() const { return position_; }

  absl::Status WritePlot(const std::string& path) const;
  // "bits_per_byte" or "bits_per_token".
  std::string bits_key() const;

 private:
  Progress Now(absl::Time now) const;
  std::optional<double> bits() const;
  nlohmann::ordered_json ProgressJson(absl::Time now) const;

  Output& out_;
  const bool json_;
  const StreamStart start_;
  const absl::Time begun_;
  uint64_t position_;
  uint64_t bytes_ = 0;
  uint64_t scored_tokens_;
  double sum_log_prob_;
  absl::Duration idle_;
  absl::Time last_part_;
  absl::Time last_shown_;
  RateMeter token_rate_;
  RateMeter byte_rate_;
  Curve curve_;
};

}  // namespace weir::client
