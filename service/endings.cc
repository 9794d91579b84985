// SPDX-License-Identifier: Apache-2.0
#include "service/endings.h"

#include <algorithm>
#include <utility>

namespace weir::service {
namespace {

using AppendPtr = std::unique_ptr<PendingAppend>;

// Answers the appends of a list that the predicate picks. They are taken out
// first.
template <typename List, typename Predicate>
void EndAppends(List& list, const absl::Status& error, Predicate ends) {
  for (auto at = list.begin(); at != list.end();) {
    if (!ends(**at)) {
      ++at;
      continue;
    }
    const AppendPtr append = std::move(*at);
    at = list.erase(at);
    append->call.Answer(error);
  }
}

bool Always(const PendingAppend&) { return true; }

void EndGeneration(Session& session, const absl::Status& error) {
  if (session.generation == nullptr) return;
  const std::unique_ptr<Generation> ended = std::move(session.generation);
  ended->SendHeld();
  ended->call.Answer(error);
}

template <typename Predicate>
void EndForks(Session& session, const absl::Status& error, Predicate ends) {
  std::vector<PendingFork> kept;
  for (PendingFork& fork : session.forks) {
    if (!ends(fork)) {
      kept.push_back(std::move(fork));
      continue;
    }
    for (ForkCall& call : fork.calls) call.Answer(error);
  }
  session.forks = std::move(kept);
}

void EndRebuild(Session& session, const absl::Status& error) {
  if (session.rebuild == nullptr) return;
  const std::unique_ptr<Rebuild> ended = std::move(session.rebuild);
  ended->record->failed = true;
  for (ForkCall& call : ended->calls) call.Answer(error);
}

void EndMap(absl::flat_hash_map<uint64_t, AppendPtr>& map,
            const absl::Status& error) {
  for (auto& [ticket, append] : std::exchange(map, {})) {
    append->call.Answer(error);
  }
}

}  // namespace

void EndAll(Session& session, const absl::Status& error) {
  EndAppends(session.arriving, error, Always);
  if (session.comparing != nullptr) {
    std::exchange(session.comparing, nullptr)->call.Answer(error);
  }
  EndMap(session.reading, error);
  EndAppends(session.to_apply, error, Always);
  EndAppends(session.settling, error, Always);
  EndGeneration(session, error);
  EndForks(session, error, [](const PendingFork&) { return true; });
  EndRebuild(session, error);
}

void EndUnsettled(Session& session,
                  Durability level,
                  const absl::Status& error) {
  const size_t index = static_cast<size_t>(level);
  EndAppends(session.settling, error, [&](const PendingAppend& append) {
    return append.call.request.durability == level &&
           session.done[index] < append.end();
  });
}

void Recede(Session& session, uint64_t position, const absl::Status& error) {
  session.accepted = position;
  for (uint64_t& end : session.requested) end = std::min(end, position);
  if (session.applied > position) {
    session.applied = position;
    Quarantine(session, position, error);
    return;
  }
  const auto beyond = [&](const PendingAppend& append) {
    return append.end() > position;
  };
  EndAppends(session.to_apply, error, beyond);
  EndAppends(session.settling, error, beyond);
  EndGeneration(session, error);
  EndForks(session, error, [&](const PendingFork& fork) {
    return fork.position > position;
  });
}

void Quarantine(Session& session,
                uint64_t last_good,
                const absl::Status& error) {
  session.quarantined = true;
  session.last_good = last_good;
  EndAppends(session.to_apply, error, Always);
  EndAppends(session.settling, error, [&](const PendingAppend& append) {
    return append.end() > last_good;
  });
  EndGeneration(session, error);
  EndForks(session, error, [](const PendingFork&) { return true; });
  EndRebuild(session, error);
}

void CloseSession(Seams& seams,
                  const SessionPtr& session,
                  CloseReason reason,
                  const absl::Status& error) {
  EndAll(*session, error);
  seams.engine->ReleaseSlot(session->slot);
  seams.store->Erase(session->id);
  seams.table.Remove(session);
  seams.observer->OnSessionClosed(reason, session->accepted);
}

}  // namespace weir::service
