// SPDX-License-Identifier: Apache-2.0
//
// One commit for all that a drained queue has let in, for each level.
//
// Threads: owned by the step thread.
#pragma once

#include <cstdint>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "service/seams.h"

namespace weir::service {

class Commits {
 public:
  explicit Commits(Seams* seams) : seams_(*seams) {}

  // LOG_FULL if the logs may not grow by so many tokens, with their scores if
  // there will be any.
  absl::Status CheckRoom(uint64_t tokens, bool scores) const;
  // Accepts tokens at the session's end, which moves. The commit starts at the
  // next Flush; when it is done the session is dirty.
  void Accept(const SessionPtr& session,
              std::vector<uint32_t> tokens,
              Durability level);
  // Sees to it that the accepted tokens before `position` reach the level.
  void Raise(const SessionPtr& session, uint64_t position, Durability level);
  // Starts the commits. False if there was nothing.
  bool Flush();

 private:
  struct Item {
    SessionPtr session;
    uint64_t begin = 0;
    uint64_t end = 0;
    size_t round = 0;  // recessions before it
  };
  struct Group {
    Durability level = Durability::kApplied;
    std::vector<LogRecord> records;
    std::vector<Item> items;
  };

  void Start(Group group);
  void Finish(const absl::Status& status,
              Durability level,
              const std::vector<Item>& items);
  void Fail(const Item& item, Durability level, const absl::Status& status);

  Seams& seams_;
  std::vector<Group> groups_;
  uint64_t unflushed_tokens_ = 0;
  // The level of each session's records in groups_: a session's records stand
  // in one group, so that they reach the store in their order.
  absl::flat_hash_map<const Session*, Durability> levels_;
};

}  // namespace weir::service
