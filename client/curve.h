// SPDX-License-Identifier: Apache-2.0
//
// What a stream cost and how well it was predicted, against position, in
// windows: 1,000 tokens each at first, twice as wide whenever there would be
// too many. So the memory used does not depend on the stream's length.
//
// Threads: one thread.
#pragma once

#include <cstddef>
#include <cstdint>
#include <limits>
#include <span>
#include <vector>

#include "absl/time/time.h"

namespace weir::client {

class Curve {
 public:
  struct Window {
    uint64_t begin = 0;  // a multiple of the width
    double tokens = 0;   // that were timed
    double seconds = 0;
    uint64_t scored_tokens = 0;
    double sum_log_prob = 0;

    // NaN if nothing was scored, or timed.
    double bits() const;
    double milliseconds_per_1000() const;
  };

  explicit Curve(size_t windows_max = 512, uint64_t width = 1000)
      : windows_max_(windows_max), width_(width) {}

  // Tokens from `start` on that took `duration`; `scores` are one a token, or
  // none. Positions must not fall.
  void Add(uint64_t start,
           uint64_t tokens,
           std::span<const float> scores,
           absl::Duration duration);

  const std::vector<Window>& windows() const { return windows_; }
  uint64_t width() const { return width_; }
  // One after the last token.
  uint64_t end() const { return end_; }

 private:
  Window& At(uint64_t position);
  void Widen();

  const size_t windows_max_;
  uint64_t width_;
  uint64_t end_ = 0;
  std::vector<Window> windows_;
};

// -sum / (n ln 2); NaN for n = 0.
double BitsPerToken(double sum_log_prob, uint64_t scored_tokens);

}  // namespace weir::client
