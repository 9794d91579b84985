// SPDX-License-Identifier: Apache-2.0
//
// What requests have done, by request_id, for as long as they may be repeated.
//
// Threads: owned by the step thread.
#pragma once

#include <cstddef>
#include <deque>
#include <string>
#include <utility>

#include "absl/container/flat_hash_map.h"

namespace weir::service {

// The last of many by request_id: 1,024, or fewer if they are large.
template <typename Record>
class Records {
 public:
  const Record* Find(const std::string& request_id) const {
    const auto found = records_.find(request_id);
    return found == records_.end() ? nullptr : &found->second;
  }
  // `bytes`: what it holds beside itself.
  void Put(const std::string& request_id, Record record, size_t bytes = 0) {
    if (request_id.empty()) return;
    if (!records_.insert_or_assign(request_id, std::move(record)).second) {
      return;
    }
    order_.emplace_back(request_id, bytes);
    bytes_ += bytes;
    while (order_.size() > kMax || bytes_ > kBytesMax) {
      records_.erase(order_.front().first);
      bytes_ -= order_.front().second;
      order_.pop_front();
    }
  }

 private:
  static constexpr size_t kMax = 1024;
  static constexpr size_t kBytesMax = size_t{64} << 10;

  absl::flat_hash_map<std::string, Record> records_;
  std::deque<std::pair<std::string, size_t>> order_;  // oldest first
  size_t bytes_ = 0;
};

}  // namespace weir::service
