// SPDX-License-Identifier: Apache-2.0
#include "service/forks.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/status_macros.h"
#include "service/endings.h"
#include "service/issue.h"
#include "service/request_check.h"

namespace weir::service {
namespace {

// Tokens of a log that a rebuild holds at a time.
constexpr uint64_t kChunkTokens = 8192;

absl::Status ExistsError() {
  return Error(Reason::kSessionExists,
               "a session of the copy's id is open already");
}

void AnswerForked(std::vector<ForkCall>& calls,
                  const std::string& id,
                  uint64_t position) {
  bool duplicate = false;
  for (ForkCall& call : calls) {
    call.Answer(ForkResult{
        .session_id = id, .position = position, .duplicate = duplicate});
    duplicate = true;
  }
}

}  // namespace

absl::Status Forks::Check(const ForkRequest& request) const {
  WEIR_RETURN_IF_ERROR(CheckSessionId(request.session_id));
  WEIR_RETURN_IF_ERROR(CheckRequestId(request.request_id));
  if (request.new_session_id.empty()) return absl::OkStatus();
  return CheckSessionId(request.new_session_id);
}

void Forks::Handle(ForkCall call) {
  if (const absl::Status wrong = Check(call.request); !wrong.ok()) {
    call.Answer(wrong);
    return;
  }
  const SessionPtr session = seams_.table.Find(call.request.session_id);
  if (session == nullptr) {
    call.Answer(NotFoundError(seams_, call.request.session_id));
    return;
  }
  session->last_request = seams_.clock->Now();
  if (Repeats(*session, call)) return;
  absl::StatusOr<PendingFork> fork = Prepare(*session, call.request);
  if (!fork.ok()) {
    call.Answer(fork.status());
    return;
  }
  fork->calls.push_back(std::move(call));
  session->forks.push_back(*std::move(fork));
  seams_.table.MarkDirty(session);
}

bool Forks::Repeats(Session& session, ForkCall& call) {
  const std::string& request_id = call.request.request_id;
  if (request_id.empty()) return false;
  const std::string& asked = call.request.new_session_id;
  for (PendingFork& fork : session.forks) {
    if (fork.calls.front().request.request_id != request_id) continue;
    if (!asked.empty() && asked != fork.new_id) {
      call.Answer(ExistsError());
    } else {
      fork.calls.push_back(std::move(call));
    }
    return true;
  }
  const auto* found = session.fork_records.Find(request_id);
  if (found == nullptr || (*found)->failed) return false;
  const std::shared_ptr<ForkRecord>& record = *found;
  if (!asked.empty() && asked != record->new_id) {
    call.Answer(ExistsError());
    return true;
  }
  const SessionPtr copy = seams_.table.Find(record->new_id);
  if (copy != nullptr && copy->rebuild != nullptr) {
    copy->rebuild->calls.push_back(std::move(call));
    return true;
  }
  call.Answer(ForkResult{.session_id = record->new_id,
                         .position = record->position,
                         .duplicate = true});
  return true;
}

absl::StatusOr<PendingFork> Forks::Prepare(const Session& session,
                                           const ForkRequest& request) const {
  if (session.quarantined) return QuarantinedError(session);
  PendingFork fork;
  fork.position = request.position.value_or(session.applied);
  if (fork.position > session.accepted) {
    return PositionError(Reason::kPositionGap, session, fork.position);
  }
  fork.new_id = request.new_session_id.empty() ? IssueSessionId()
                                               : request.new_session_id;
  if (seams_.table.Find(fork.new_id) != nullptr) return ExistsError();
  return fork;
}

uint64_t Forks::RoomFor(const Session& session) {
  uint64_t room = std::numeric_limits<uint64_t>::max();
  for (const PendingFork& fork : session.forks) {
    // One that waits for its commit holds the state where it is.
    if (fork.position >= session.applied) {
      room = std::min(room, fork.position - session.applied);
    }
  }
  return room;
}

std::span<const uint32_t> Forks::Waiting(const Session& session) {
  const LogSlice& chunk = session.rebuild->chunk;
  const uint64_t fed = session.applied - chunk.position;
  if (fed >= chunk.tokens.size()) return {};
  return std::span(chunk.tokens).subspan(fed);
}

void Forks::Advance(const SessionPtr& session) {
  if (session->rebuild != nullptr) AdvanceRebuild(session);
  const auto waits = [&](const PendingFork& fork) {
    return session->applied < fork.position ||
           session->committed() < fork.position;
  };
  const auto ready = std::stable_partition(
      session->forks.begin(), session->forks.end(), waits);
  std::vector<PendingFork> made;
  std::move(ready, session->forks.end(), std::back_inserter(made));
  session->forks.erase(ready, session->forks.end());
  for (PendingFork& fork : made) Make(*session, std::move(fork));
}

void Forks::Make(Session& session, PendingFork fork) {
  const absl::StatusOr<SessionPtr> copy =
      seams_.engine_failure.ok() ? Copy(session, fork) : seams_.engine_failure;
  if (!seams_.engine_failure.ok()) {
    // The step loop ends everything and answers it with the rest.
    session.forks.push_back(std::move(fork));
    return;
  }
  if (!copy.ok()) {
    for (ForkCall& call : fork.calls) call.Answer(copy.status());
    return;
  }
  auto record = std::make_shared<ForkRecord>(
      ForkRecord{.new_id = fork.new_id, .position = fork.position});
  session.fork_records.Put(fork.calls.front().request.request_id, record);
  session.last_request = seams_.clock->Now();
  seams_.observer->OnSessionOpened();
  if ((*copy)->applied == fork.position) {
    AnswerForked(fork.calls, fork.new_id, fork.position);
    return;
  }
  (*copy)->rebuild = std::make_unique<Rebuild>();
  (*copy)->rebuild->target = fork.position;
  (*copy)->rebuild->record = std::move(record);
  (*copy)->rebuild->calls = std::move(fork.calls);
  seams_.table.MarkDirty(*copy);
}

absl::StatusOr<SessionPtr> Forks::Copy(Session& session,
                                       const PendingFork& fork) {
  if (seams_.table.Find(fork.new_id) != nullptr) return ExistsError();
  WEIR_ASSIGN_OR_RETURN(const int32_t slot, AcquireSlot(seams_));
  const bool whole = fork.position == session.applied && fork.position > 0;
  if (whole) {
    if (const absl::Status copied = seams_.engine->CopySlot(session.slot, slot);
        !copied.ok()) {
      seams_.engine->ReleaseSlot(slot);
      seams_.engine_failure = copied;
      return copied;
    }
  }
  const absl::Status forked =
      seams_.store->Fork(session.id, fork.position, fork.new_id);
  if (!forked.ok()) {
    seams_.engine->ReleaseSlot(slot);
    return StoreError(forked);
  }
  const absl::Duration now = seams_.clock->Now();
  SessionPtr copy = seams_.table.Add(fork.new_id, now);
  copy->slot = slot;
  copy->seed = fork.calls.front().request.seed.value_or(session.seed);
  copy->idle_timeout = session.idle_timeout;
  copy->accepted = fork.position;
  copy->requested[LevelIndex(Durability::kApplied)] = fork.position;
  copy->done[LevelIndex(Durability::kApplied)] = fork.position;
  if (whole) {
    copy->applied = fork.position;
    copy->scored_tokens = session.scored_tokens;
    copy->sum_log_prob = session.sum_log_prob;
  }
  return copy;
}

void Forks::AdvanceRebuild(const SessionPtr& session) {
  Rebuild& rebuild = *session->rebuild;
  if (session->applied == rebuild.target) {
    const std::unique_ptr<Rebuild> done = std::move(session->rebuild);
    session->last_request = seams_.clock->Now();
    AnswerForked(done->calls, session->id, done->target);
    return;
  }
  if (rebuild.reading || !Waiting(*session).empty()) return;
  rebuild.reading = true;
  ReadLog(seams_,
          session,
          session->applied,
          std::min(rebuild.target - session->applied, kChunkTokens),
          [this, session](absl::StatusOr<LogSlice> slice) {
            OnChunk(session, std::move(slice));
          });
}

void Forks::OnChunk(const SessionPtr& session, absl::StatusOr<LogSlice> slice) {
  if (session->rebuild == nullptr) return;
  if (!slice.ok() || slice->tokens.empty()) {
    CloseSession(
        seams_, session, CloseReason::kError, StoreError(slice.status()));
    return;
  }
  for (const float score : slice->scores) {
    if (!std::isfinite(score)) continue;
    ++session->scored_tokens;
    session->sum_log_prob += score;
  }
  session->rebuild->reading = false;
  session->rebuild->chunk = *std::move(slice);
}

}  // namespace weir::service
