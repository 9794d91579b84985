// SPDX-License-Identifier: Apache-2.0
//
// How far a long stream has come: a rate that forgets, an estimate of the
// end, and one line of text for any width.
//
// Threads: one thread.
#pragma once

#include <cstdint>
#include <deque>
#include <optional>
#include <string>
#include <utility>

#include "absl/time/time.h"

namespace weir::client {

// Something a second, over the last ten seconds.
class RateMeter {
 public:
  explicit RateMeter(absl::Time start) : samples_{{start, 0}} {}
  // `total` so far; it must not fall.
  void Add(absl::Time now, double total);
  // nullopt before anything was measured.
  std::optional<double> rate() const;

 private:
  // A sample every tenth of a second at most, so the queue stays short.
  std::deque<std::pair<absl::Time, double>> samples_;
};

struct Progress {
  uint64_t position = 0;
  std::optional<double> fraction;  // of the document; unknown for a pipe
  std::optional<double> tokens_per_second;
  std::optional<double> bits;  // per `bits_unit`, so far
  std::string bits_unit = "byte";
  absl::Duration elapsed;
  std::optional<absl::Duration> left;  // estimated
};

// The time that the rest takes at the present rate.
std::optional<absl::Duration> EstimateLeft(double done,
                                           std::optional<double> total,
                                           std::optional<double> rate);

// One line of at most `width` columns. What does not fit is left out, the
// least needed first; at 20 columns the position and the share still stand.
std::string RenderProgress(const Progress& progress, int width, bool unicode);

// The same as plain words, for a log.
std::string DescribeProgress(const Progress& progress);

}  // namespace weir::client
