// SPDX-License-Identifier: Apache-2.0
#include "client/curve.h"

#include <algorithm>
#include <cmath>
#include <numbers>

namespace weir::client {

double BitsPerToken(double sum_log_prob, uint64_t scored_tokens) {
  if (scored_tokens == 0) return std::numeric_limits<double>::quiet_NaN();
  return -sum_log_prob /
         (static_cast<double>(scored_tokens) * std::numbers::ln2);
}

double Curve::Window::bits() const {
  return BitsPerToken(sum_log_prob, scored_tokens);
}

double Curve::Window::milliseconds_per_1000() const {
  if (tokens <= 0) return std::numeric_limits<double>::quiet_NaN();
  return seconds / tokens * 1e6;
}

void Curve::Add(uint64_t start,
                uint64_t tokens,
                std::span<const float> scores,
                absl::Duration duration) {
  const double seconds_each =
      tokens == 0 ? 0 : absl::ToDoubleSeconds(duration) / tokens;
  uint64_t done = 0;
  while (done < tokens) {
    Window& window = At(start + done);
    // An append that reaches over an edge is shared out by its tokens.
    const uint64_t here =
        std::min(tokens - done, window.begin + width_ - (start + done));
    window.tokens += here;
    window.seconds += seconds_each * here;
    for (uint64_t i = done; i < done + here && i < scores.size(); ++i) {
      if (std::isnan(scores[i])) continue;
      ++window.scored_tokens;
      window.sum_log_prob += scores[i];
    }
    done += here;
  }
  end_ = std::max(end_, start + tokens);
}

Curve::Window& Curve::At(uint64_t position) {
  const uint64_t begin = position / width_ * width_;
  if (windows_.empty() || windows_.back().begin < begin) {
    if (windows_.size() >= windows_max_) {
      Widen();
      return At(position);
    }
    windows_.push_back({.begin = begin});
  }
  return windows_.back();
}

void Curve::Widen() {
  width_ *= 2;
  std::vector<Window> wider;
  for (const Window& window : windows_) {
    const uint64_t begin = window.begin / width_ * width_;
    if (wider.empty() || wider.back().begin < begin) {
      wider.push_back({.begin = begin});
    }
    wider.back().tokens += window.tokens;
    wider.back().seconds += window.seconds;
    wider.back().scored_tokens += window.scored_tokens;
    wider.back().sum_log_prob += window.sum_log_prob;
  }
  windows_ = std::move(wider);
}

}  // namespace weir::client
