// SPDX-License-Identifier: Apache-2.0
//
// A memory store that can be made to fail, to hold its answers back, and to
// claim levels that memory cannot reach.
//
// Threads: owned by the thread that drives the loop; MemoryBytes from any.
#pragma once

#include <cstdint>
#include <deque>
#include <set>
#include <string>
#include <vector>

#include "store/memory_store.h"

namespace weir::support {

class FakeStore final : public service::Store {
 public:
  enum class Point { kCreate, kFork, kCommit, kRead };

  // Answers whatever it holds back.
  ~FakeStore() override { Release(); }

  // The n-th call from now on fails, n = 1, 2, ...; 0: none.
  void FailAt(Point point, int64_t n);
  void Support(service::Durability durability) { levels_.insert(durability); }
  // Keeps answers back until Release. What was asked has taken effect.
  void Hold() { holding_ = true; }
  // Lets go of the answers, and holds no more.
  void Release();
  // Lets go of the oldest one.
  void ReleaseOne();
  size_t held() const { return held_.size(); }

  // Commits so far, with the number of their records.
  const std::vector<size_t>& commits() const { return commits_; }
  // Logs that are there.
  int64_t logs() const { return logs_; }

  bool Supports(service::Durability durability) const override;
  absl::Status Create(const std::string& session_id) override;
  absl::Status Fork(const std::string& from,
                    uint64_t position,
                    const std::string& to) override;
  void Erase(const std::string& session_id) override;
  void Commit(std::vector<service::LogRecord> records,
              service::Durability durability,
              Done done) override;
  void PutScores(service::ScoreRecord record) override;
  void Read(const std::string& session_id,
            uint64_t position,
            uint64_t count,
            ReadDone done) override;
  uint64_t MemoryBytes() const override { return memory_.MemoryBytes(); }

 private:
  bool Fails(Point point);
  void Answer(absl::AnyInvocable<void() &&> answer);

  store::MemoryStore memory_;
  std::set<service::Durability> levels_ = {service::Durability::kApplied};
  int64_t fail_at_[4] = {0, 0, 0, 0};
  bool holding_ = false;
  std::deque<absl::AnyInvocable<void() &&>> held_;
  std::vector<size_t> commits_;
  int64_t logs_ = 0;
};

}  // namespace weir::support
