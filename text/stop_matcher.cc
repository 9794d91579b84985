// SPDX-License-Identifier: Apache-2.0
#include "text/stop_matcher.h"

#include <algorithm>
#include <utility>

namespace weir::text {

StopMatcher::StopMatcher(std::vector<std::string> stops) {
  patterns_.reserve(stops.size());
  for (std::string& stop : stops) {
    Pattern pattern;
    pattern.failure.assign(stop.size(), 0);
    for (size_t n = 1, length = 0; n < stop.size(); ++n) {
      while (length > 0 && stop[n] != stop[length]) {
        length = pattern.failure[length - 1];
      }
      if (stop[n] == stop[length]) ++length;
      pattern.failure[n] = length;
    }
    pattern.text = std::move(stop);
    patterns_.push_back(std::move(pattern));
  }
}

std::string StopMatcher::Push(std::string_view text) {
  if (patterns_.empty()) return std::string(text);
  std::string shown;
  for (char c : text) {
    if (found_ != nullptr) break;
    held_ += c;
    size_t keep = 0;
    for (Pattern& pattern : patterns_) {
      Advance(pattern, c);
      keep = std::max(keep, pattern.matched);
      if (pattern.matched == pattern.text.size() &&
          (found_ == nullptr || pattern.text.size() > found_->text.size())) {
        found_ = &pattern;
      }
    }
    if (found_ != nullptr) keep = found_->text.size();
    shown.append(held_, 0, held_.size() - keep);
    held_.erase(0, held_.size() - keep);
  }
  if (found_ != nullptr) held_.clear();
  return shown;
}

std::string StopMatcher::Flush() { return std::exchange(held_, {}); }

const std::string* StopMatcher::stop() const {
  return found_ == nullptr ? nullptr : &found_->text;
}

void StopMatcher::Advance(Pattern& pattern, char c) {
  size_t& matched = pattern.matched;
  while (matched > 0 &&
         (matched == pattern.text.size() || pattern.text[matched] != c)) {
    matched = pattern.failure[matched - 1];
  }
  if (pattern.text[matched] == c) ++matched;
}

}  // namespace weir::text
