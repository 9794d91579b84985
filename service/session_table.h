// SPDX-License-Identifier: Apache-2.0
//
// The open sessions: by id, by how long they have been idle, and those that
// something has happened to.
//
// Threads: owned by the step thread.
#pragma once

#include <cstdint>
#include <deque>
#include <map>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "service/session.h"

namespace weir::service {

class SessionTable {
 public:
  // REQUIRES: no session of this id is open.
  SessionPtr Add(std::string id, absl::Duration now);
  // Null if there is none.
  SessionPtr Find(const std::string& id) const;
  // Takes it out and marks it closed.
  void Remove(const SessionPtr& session);

  // Up to `count` sessions with ids after `after`, in the order of their ids.
  std::vector<SessionPtr> Page(const std::string& after, size_t count) const;
  std::vector<SessionPtr> All() const;
  size_t size() const { return by_id_.size(); }

  // Something has happened to it that may let its calls go on.
  void MarkDirty(const SessionPtr& session);
  std::vector<SessionPtr> TakeDirty();

  // A session without work that has been idle for its time, or null. Sessions
  // with work are looked at again later.
  SessionPtr NextExpired(absl::Duration now);
  // When NextExpired is to be asked again.
  absl::Duration next_check() const;

  // The backlogs of all sessions together, as they were last counted: after an
  // append was accepted, and between two steps.
  int64_t backlog() const { return backlog_; }
  void CountBacklog(Session& session);

  // The ids of the last 4,096 sessions that expired, but for those that have
  // been opened again.
  void NoteExpired(const Session& session);
  bool HasExpired(const std::string& id) const { return expired_.contains(id); }

  // Sessions that may have a row, in the order of their serials.
  std::map<uint64_t, SessionPtr>& active() { return active_; }
  const std::map<uint64_t, SessionPtr>& active() const { return active_; }

 private:
  void CheckIdleAt(Session& session, absl::Duration when);

  uint64_t next_serial_ = 1;
  std::map<std::string, SessionPtr> by_id_;
  // One entry a session; it may be too early, never too late.
  std::set<std::pair<absl::Duration, std::string>> idle_;
  std::vector<SessionPtr> dirty_;
  std::map<uint64_t, SessionPtr> active_;
  int64_t backlog_ = 0;
  // The session's serial, which tells an id's last end from an earlier one.
  absl::flat_hash_map<std::string, uint64_t> expired_;
  std::deque<std::pair<uint64_t, std::string>> expired_order_;  // oldest first
};

}  // namespace weir::service
