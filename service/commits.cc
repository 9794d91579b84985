// SPDX-License-Identifier: Apache-2.0
#include "service/commits.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "service/endings.h"

namespace weir::service {

absl::Status Commits::CheckRoom(uint64_t tokens, bool scores) const {
  // What waits for its rows may still get scores, at most one a token.
  const auto owed = static_cast<uint64_t>(seams_.table.backlog());
  const uint64_t held = seams_.store->MemoryBytes() +
                        unflushed_tokens_ * sizeof(uint32_t) +
                        owed * sizeof(float);
  const uint64_t more =
      tokens * (sizeof(uint32_t) + (scores ? sizeof(float) : 0));
  const uint64_t limit = seams_.limits.log_bytes_max;
  if (held <= limit && more <= limit - held) return absl::OkStatus();
  return Error(Reason::kLogFull,
               absl::StrCat("the logs of all sessions hold ",
                            held,
                            " bytes, limit ",
                            limit,
                            ", and these tokens take ",
                            more,
                            "; close sessions that are done"),
               {{"limit", absl::StrCat(limit)},
                {"held", absl::StrCat(held)},
                {"bytes", absl::StrCat(more)}});
}

void Commits::Accept(const SessionPtr& session,
                     std::vector<uint32_t> tokens,
                     Durability level) {
  const auto [entry, fresh] = levels_.try_emplace(session.get(), level);
  if (!fresh && entry->second != level) {
    Flush();
    levels_.emplace(session.get(), level);
  }
  const auto same_level = [&](const Group& group) {
    return group.level == level;
  };
  auto group = std::find_if(groups_.begin(), groups_.end(), same_level);
  if (group == groups_.end()) {
    groups_.push_back({level, {}, {}});
    group = groups_.end() - 1;
  }
  const uint64_t begin = session->accepted;
  unflushed_tokens_ += tokens.size();
  session->accepted += tokens.size();
  seams_.table.CountBacklog(*session);
  session->requested[LevelIndex(Durability::kApplied)] = session->accepted;
  session->requested[LevelIndex(level)] = session->accepted;
  group->items.push_back(
      {session, begin, session->accepted, session->recessions.size()});
  group->records.push_back({session->id, begin, std::move(tokens)});
}

void Commits::Raise(const SessionPtr& session,
                    uint64_t position,
                    Durability level) {
  if (session->requested[LevelIndex(level)] >= position) return;
  Accept(session, {}, level);
}

bool Commits::Flush() {
  if (groups_.empty()) return false;
  std::vector<Group> groups = std::exchange(groups_, {});
  levels_.clear();
  unflushed_tokens_ = 0;
  for (Group& group : groups) Start(std::move(group));
  return true;
}

void Commits::Start(Group group) {
  // A record of a log that is gone would fail the others with it.
  std::vector<LogRecord> records;
  std::vector<Item> items;
  for (size_t i = 0; i < group.items.size(); ++i) {
    if (group.items[i].session->closed) continue;
    records.push_back(std::move(group.records[i]));
    items.push_back(std::move(group.items[i]));
  }
  if (records.empty()) return;
  const Durability level = group.level;
  auto post = [this,
               level,
               items = std::move(items),
               reservation =
                   seams_.queue->Reserve()](absl::Status status) mutable {
    reservation.Post([this,
                      level,
                      items = std::move(items),
                      status = std::move(status)]() mutable {
      Finish(status, level, items);
    });
  };
  seams_.store->Commit(std::move(records), level, std::move(post));
}

void Commits::Finish(const absl::Status& status,
                     Durability level,
                     const std::vector<Item>& items) {
  for (const Item& item : items) {
    Session& session = *item.session;
    const auto overtaken = [&](uint64_t end) { return item.begin >= end; };
    if (session.closed || std::any_of(session.recessions.begin() + item.round,
                                      session.recessions.end(),
                                      overtaken)) {
      continue;
    }
    if (status.ok()) {
      for (const size_t reached :
           {LevelIndex(Durability::kApplied), LevelIndex(level)}) {
        session.done[reached] = std::max(session.done[reached], item.end);
      }
    } else {
      Fail(item, level, status);
    }
    seams_.table.MarkDirty(item.session);
  }
}

void Commits::Fail(const Item& item,
                   Durability level,
                   const absl::Status& status) {
  Session& session = *item.session;
  const absl::Status error = StoreError(status);
  if (item.begin == item.end) {
    session.requested[LevelIndex(level)] = session.done[LevelIndex(level)];
    EndUnsettled(session, level, error);
    return;
  }
  session.recessions.push_back(item.begin);
  Recede(session, item.begin, error);
}

}  // namespace weir::service
