// SPDX-License-Identifier: Apache-2.0
#include "service/session_table.h"

#include <algorithm>

#include "base/check.h"

namespace weir::service {
namespace {

constexpr size_t kExpiredMax = 4096;

}  // namespace

SessionPtr SessionTable::Add(std::string id, absl::Duration now) {
  auto session = std::make_shared<Session>();
  session->id = std::move(id);
  session->serial = next_serial_++;
  session->last_request = now;
  const bool added = by_id_.emplace(session->id, session).second;
  WEIR_CHECK(added);
  expired_.erase(session->id);
  // Its timeout is not known yet; looking too early costs nothing.
  CheckIdleAt(*session, now);
  return session;
}

SessionPtr SessionTable::Find(const std::string& id) const {
  const auto found = by_id_.find(id);
  return found == by_id_.end() ? nullptr : found->second;
}

void SessionTable::Remove(const SessionPtr& session) {
  WEIR_CHECK(!session->closed && by_id_.erase(session->id) == 1);
  if (session->idle_check.has_value()) {
    idle_.erase({*session->idle_check, session->id});
  }
  active_.erase(session->serial);
  session->closed = true;
  CountBacklog(*session);
}

void SessionTable::CountBacklog(Session& session) {
  const int64_t now = session.backlog();
  backlog_ += now - std::exchange(session.counted_backlog, now);
}

void SessionTable::NoteExpired(const Session& session) {
  expired_.insert_or_assign(session.id, session.serial);
  expired_order_.emplace_back(session.serial, session.id);
  if (expired_order_.size() <= kExpiredMax) return;
  const auto& [serial, id] = expired_order_.front();
  const auto known = expired_.find(id);
  if (known != expired_.end() && known->second == serial) expired_.erase(known);
  expired_order_.pop_front();
}

std::vector<SessionPtr> SessionTable::Page(const std::string& after,
                                           size_t count) const {
  std::vector<SessionPtr> page;
  auto at = after.empty() ? by_id_.begin() : by_id_.upper_bound(after);
  for (; at != by_id_.end() && page.size() < count; ++at) {
    page.push_back(at->second);
  }
  return page;
}

std::vector<SessionPtr> SessionTable::All() const {
  return Page("", by_id_.size());
}

void SessionTable::MarkDirty(const SessionPtr& session) {
  if (std::exchange(session->dirty, true)) return;
  dirty_.push_back(session);
}

std::vector<SessionPtr> SessionTable::TakeDirty() {
  std::vector<SessionPtr> taken = std::exchange(dirty_, {});
  for (const SessionPtr& session : taken) session->dirty = false;
  std::erase_if(taken, [](const SessionPtr& s) { return s->closed; });
  return taken;
}

SessionPtr SessionTable::NextExpired(absl::Duration now) {
  while (!idle_.empty() && idle_.begin()->first <= now) {
    SessionPtr session = Find(idle_.begin()->second);
    idle_.erase(idle_.begin());
    session->idle_check.reset();
    const absl::Duration expiry = session->last_request + session->idle_timeout;
    if (session->pending()) {
      CheckIdleAt(*session, now + session->idle_timeout);
    } else if (expiry > now) {
      CheckIdleAt(*session, expiry);
    } else {
      return session;
    }
  }
  return nullptr;
}

absl::Duration SessionTable::next_check() const {
  return idle_.empty() ? absl::InfiniteDuration() : idle_.begin()->first;
}

void SessionTable::CheckIdleAt(Session& session, absl::Duration when) {
  session.idle_check = when;
  idle_.emplace(when, session.id);
}

}  // namespace weir::service
