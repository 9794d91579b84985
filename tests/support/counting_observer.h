// SPDX-License-Identifier: Apache-2.0
//
// An observer that counts.
//
// Threads: as Observer; the counts may be read when the loop stands still.
#pragma once

#include <algorithm>
#include <map>
#include <mutex>
#include <vector>

#include "service/observer.h"

namespace weir::support {

class CountingObserver : public service::Observer {
 public:
  void OnStep(const service::StepStats& stats) override {
    steps.push_back(stats);
  }
  void OnLevels(const service::Levels& now) override { levels = now; }
  void OnSessionOpened() override { ++opened; }
  void OnSessionClosed(service::CloseReason reason, uint64_t) override {
    ++closed[reason];
  }
  void OnAppended(uint64_t tokens) override { appended += tokens; }
  void OnReused(uint64_t tokens) override { reused += tokens; }
  void OnDuplicate(uint64_t tokens) override { duplicates += tokens; }
  void OnAppendAck(absl::Duration) override { ++acks; }
  void OnQueueTime(absl::Duration) override { ++queue_times; }
  void OnGenerated(bool first, absl::Duration) override {
    ++generated;
    generations += first ? 1 : 0;
  }
  void OnRejected(service::Reason reason) override {
    const std::lock_guard lock(mutex_);
    ++rejected_[reason];
  }
  int64_t rejected(service::Reason reason) const {
    const std::lock_guard lock(mutex_);
    const auto found = rejected_.find(reason);
    return found == rejected_.end() ? 0 : found->second;
  }

  std::vector<service::StepStats> steps;
  service::Levels levels;
  int64_t opened = 0;
  std::map<service::CloseReason, int64_t> closed;
  uint64_t appended = 0;
  uint64_t reused = 0;
  uint64_t duplicates = 0;
  int64_t acks = 0;
  int64_t queue_times = 0;
  int64_t generated = 0;
  int64_t generations = 0;

 private:
  mutable std::mutex mutex_;
  std::map<service::Reason, int64_t> rejected_;
};

}  // namespace weir::support
