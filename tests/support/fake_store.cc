// SPDX-License-Identifier: Apache-2.0
#include "tests/support/fake_store.h"

#include <utility>

namespace weir::support {

using service::Durability;
using service::LogRecord;
using service::LogSlice;
using service::ScoreRecord;

void FakeStore::FailAt(Point point, int64_t n) {
  fail_at_[static_cast<size_t>(point)] = n;
}

bool FakeStore::Fails(Point point) {
  int64_t& n = fail_at_[static_cast<size_t>(point)];
  return n > 0 && --n == 0;
}

void FakeStore::Answer(absl::AnyInvocable<void() &&> answer) {
  if (holding_) {
    held_.push_back(std::move(answer));
  } else {
    std::move(answer)();
  }
}

void FakeStore::Release() {
  holding_ = false;
  while (!held_.empty()) ReleaseOne();
}

void FakeStore::ReleaseOne() {
  absl::AnyInvocable<void()&&> answer = std::move(held_.front());
  held_.pop_front();
  std::move(answer)();
}

bool FakeStore::Supports(Durability durability) const {
  return levels_.contains(durability);
}

absl::Status FakeStore::Create(const std::string& session_id) {
  if (Fails(Point::kCreate)) return absl::UnavailableError("create failed");
  absl::Status made = memory_.Create(session_id);
  logs_ += made.ok() ? 1 : 0;
  return made;
}

absl::Status FakeStore::Fork(const std::string& from,
                             uint64_t position,
                             const std::string& to) {
  if (Fails(Point::kFork)) return absl::UnavailableError("fork failed");
  absl::Status made = memory_.Fork(from, position, to);
  logs_ += made.ok() ? 1 : 0;
  return made;
}

void FakeStore::Erase(const std::string& session_id) {
  memory_.Erase(session_id);
  --logs_;
}

void FakeStore::Commit(std::vector<LogRecord> records, Durability, Done done) {
  commits_.push_back(records.size());
  absl::Status result = absl::UnavailableError("commit failed");
  if (!Fails(Point::kCommit)) {
    memory_.Commit(
        std::move(records),
        Durability::kApplied,
        [&result](absl::Status status) { result = std::move(status); });
  }
  Answer([done = std::move(done), result = std::move(result)]() mutable {
    std::move(done)(std::move(result));
  });
}

void FakeStore::PutScores(ScoreRecord record) {
  memory_.PutScores(std::move(record));
}

void FakeStore::Read(const std::string& session_id,
                     uint64_t position,
                     uint64_t count,
                     ReadDone done) {
  absl::StatusOr<LogSlice> result = absl::UnavailableError("read failed");
  if (!Fails(Point::kRead)) {
    memory_.Read(
        session_id, position, count, [&result](absl::StatusOr<LogSlice> slice) {
          result = std::move(slice);
        });
  }
  Answer([done = std::move(done), result = std::move(result)]() mutable {
    std::move(done)(std::move(result));
  });
}

}  // namespace weir::support
