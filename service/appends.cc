// SPDX-License-Identifier: Apache-2.0
#include "service/appends.h"

#include <algorithm>
#include <cmath>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/status_macros.h"
#include "service/request_check.h"

namespace weir::service {
namespace {

absl::Status BusyError() {
  return Error(Reason::kSessionBusy,
               "a generation of this session runs; try again after it");
}

}  // namespace

absl::Status Appends::Check(const AppendCall& call) const {
  WEIR_RETURN_IF_ERROR(CheckSessionId(call.request.session_id));
  WEIR_RETURN_IF_ERROR(CheckTokens(call.request.tokens,
                                   seams_.limits.append_tokens_max,
                                   seams_.engine->model().vocabulary));
  return CheckDurability(*seams_.store, call.request.durability);
}

absl::StatusOr<Judgement> Appends::Judge(const Session& session,
                                         const AppendCall& call) const {
  if (session.quarantined) return QuarantinedError(session);
  const AppendRequest& request = call.request;
  const Judgement judgement = JudgeAppend(request.expected_position,
                                          request.tokens.size(),
                                          session.accepted,
                                          seams_.limits.session_tokens_max);
  if (judgement.verdict == Verdict::kLength) {
    return LengthError(seams_, session, request.expected_position);
  }
  // While a generation runs the end belongs to it. What lies behind its start
  // does not, and may be sent again.
  if (session.generation != nullptr && !request.tokens.empty() &&
      (judgement.verdict != Verdict::kBehind ||
       request.expected_position + request.tokens.size() >
           session.generation->record->start)) {
    return BusyError();
  }
  if (judgement.verdict == Verdict::kAhead) {
    return PositionError(
        Reason::kPositionGap, session, request.expected_position);
  }
  return judgement;
}

void Appends::Handle(AppendCall call) {
  if (const absl::Status wrong = Check(call); !wrong.ok()) {
    call.Answer(wrong);
    return;
  }
  const SessionPtr session = seams_.table.Find(call.request.session_id);
  if (session == nullptr) {
    call.Answer(NotFoundError(seams_, call.request.session_id));
    return;
  }
  session->last_request = seams_.clock->Now();
  session->arriving.push_back(std::make_unique<PendingAppend>(std::move(call)));
  DecideArrived(session);
  seams_.table.MarkDirty(session);
}

void Appends::DecideArrived(const SessionPtr& session) {
  while (session->comparing == nullptr && !session->arriving.empty()) {
    AppendPtr append = std::move(session->arriving.front());
    session->arriving.pop_front();
    Decide(session, std::move(append));
  }
}

void Appends::Decide(const SessionPtr& session, AppendPtr append) {
  const absl::StatusOr<Judgement> judgement = Judge(*session, append->call);
  if (!judgement.ok()) {
    append->call.Answer(judgement.status());
    return;
  }
  if (judgement->verdict == Verdict::kEmpty) {
    Reply(*session, std::move(append), {});
    return;
  }
  if (judgement->overlap > append->duplicates) {
    Compare(session, std::move(append), judgement->overlap);
    return;
  }
  if (append->duplicates == append->call.request.tokens.size()) {
    seams_.observer->OnDuplicate(append->duplicates);
    commits_.Raise(session, append->end(), append->call.request.durability);
    session->settling.push_back(std::move(append));
    return;
  }
  Accept(session, std::move(append));
}

// `own`: those of the session itself.
int64_t Appends::TokensUntilDone(const Session& session, int64_t own) const {
  int64_t tokens = own;
  for (const auto& [serial, other] : seams_.table.active()) {
    if (serial == session.serial) continue;
    // Round robin: until this one is done another gets as much, or all it has.
    tokens += std::min(own, other->backlog());
  }
  return tokens;
}

absl::Status Appends::CheckDeadline(const Session& session,
                                    const PendingAppend& append) {
  const absl::Duration now = seams_.clock->Now();
  if (append.call.late(now)) {
    return Error(Reason::kDeadlineInQueue, "too late before it was accepted");
  }
  if (append.call.deadline() == absl::InfiniteDuration()) {
    return absl::OkStatus();
  }
  const auto own = static_cast<int64_t>(append.end() - session.applied);
  // All that waits is more than what is fed before this one is done: if even
  // that leaves time, nobody need be asked.
  const int64_t most = own + seams_.table.backlog() - session.backlog();
  if (!append.call.late(now + seams_.pace.Estimate(most))) {
    return absl::OkStatus();
  }
  const int64_t tokens = TokensUntilDone(session, own);
  const absl::Duration estimate = seams_.pace.Estimate(tokens);
  if (!append.call.late(now + estimate)) return absl::OkStatus();
  seams_.pace.OnRefused();
  const std::string left = absl::FormatDuration(append.call.deadline() - now);
  return Error(Reason::kDeadlineInQueue,
               absl::StrCat("the deadline is in ",
                            left,
                            ", and the ",
                            tokens,
                            " tokens up to the append's end take about ",
                            absl::FormatDuration(estimate),
                            "; nothing was applied: allow more time, or append "
                            "fewer tokens"),
               {{"limit", left}});
}

void Appends::Accept(const SessionPtr& session, AppendPtr append) {
  // The last moment at which the client may take it back.
  if (append->call.cancelled()) {
    append->call.Answer(
        Error(Reason::kCancelled, "cancelled before it was accepted"));
    return;
  }
  if (const absl::Status late = CheckDeadline(*session, *append); !late.ok()) {
    append->call.Answer(late);
    return;
  }
  const std::vector<uint32_t>& tokens = append->call.request.tokens;
  if (const absl::Status full = commits_.CheckRoom(
          tokens.size() - append->duplicates, append->call.request.want_scores);
      !full.ok()) {
    append->call.Answer(full);
    return;
  }
  if (append->duplicates > 0) {
    seams_.observer->OnDuplicate(append->duplicates);
  }
  commits_.Accept(session,
                  {tokens.begin() + append->duplicates, tokens.end()},
                  append->call.request.durability);
  session->to_apply.push_back(std::move(append));
  // At once: it counts for the next append of the same queue.
  seams_.table.active().emplace(session->serial, session);
}

void Appends::Compare(const SessionPtr& session,
                      AppendPtr append,
                      uint64_t overlap) {
  const uint64_t position = append->begin();
  const uint64_t count = overlap - append->duplicates;
  session->comparing = std::move(append);
  // Records that wait for their commit must reach the store before the read.
  commits_.Flush();
  ReadLog(seams_,
          session,
          position,
          count,
          [this, session](absl::StatusOr<LogSlice> slice) {
            OnCompared(session, std::move(slice));
          });
}

void Appends::OnCompared(const SessionPtr& session,
                         absl::StatusOr<LogSlice> slice) {
  // Unless a fault has answered it: only one at a time is compared.
  if (session->comparing == nullptr) return;
  AppendPtr append = std::move(session->comparing);
  const std::span<const uint32_t> sent =
      std::span(append->call.request.tokens).subspan(append->duplicates);
  if (!slice.ok() || slice->tokens.empty()) {
    append->call.Answer(StoreError(slice.status()));
  } else if (const uint64_t equal = EqualTokens(sent, slice->tokens);
             equal < std::min(sent.size(), slice->tokens.size())) {
    append->call.Answer(PositionError(Reason::kPositionConflict,
                                      *session,
                                      append->call.request.expected_position));
  } else {
    append->duplicates += equal;
    // The end may have moved while the log was read.
    Decide(session, std::move(append));
  }
  DecideArrived(session);
}

std::span<const uint32_t> Appends::Waiting(const Session& session) const {
  const PendingAppend& append = *session.to_apply.front();
  return std::span(append.call.request.tokens)
      .subspan(session.applied - append.call.request.expected_position);
}

bool Appends::WantsScores(const Session& session) const {
  return session.to_apply.front()->call.request.want_scores;
}

void Appends::OnStart(Session& session) {
  PendingAppend& append = *session.to_apply.front();
  if (std::exchange(append.started, true)) return;
  seams_.observer->OnQueueTime(seams_.clock->Now() - append.call.pushed);
  seams_.observer->OnReused(session.applied);
}

void Appends::OnRow(const SessionPtr& session,
                    uint64_t tokens,
                    std::vector<float> scores) {
  PendingAppend& append = *session->to_apply.front();
  seams_.observer->OnAppended(tokens);
  if (append.call.request.want_scores) {
    for (const float score : scores) {
      if (!std::isfinite(score)) continue;
      ++session->scored_tokens;
      session->sum_log_prob += score;
    }
    append.scores.insert(append.scores.end(), scores.begin(), scores.end());
    seams_.store->PutScores(
        {session->id, session->applied - tokens, std::move(scores)});
  }
  if (session->applied == append.end()) {
    session->settling.push_back(std::move(session->to_apply.front()));
    session->to_apply.pop_front();
  } else if (append.call.request.on_progress) {
    append.call.request.on_progress(session->applied, append.end());
  }
}

bool Appends::Settled(const Session& session,
                      const PendingAppend& append) const {
  const size_t level = LevelIndex(append.call.request.durability);
  return session.applied >= append.end() && session.done[level] >= append.end();
}

void Appends::Advance(const SessionPtr& session) {
  std::vector<AppendPtr> settled;
  for (auto at = session->settling.begin(); at != session->settling.end();) {
    if (!Settled(*session, **at)) {
      ++at;
      continue;
    }
    settled.push_back(std::move(*at));
    at = session->settling.erase(at);
  }
  for (AppendPtr& append : settled) {
    const AppendRequest& request = append->call.request;
    if (request.want_scores && append->duplicates > 0) {
      ReadScores(session, std::move(append));
    } else {
      std::vector<float> scores = std::move(append->scores);
      Reply(*session, std::move(append), std::move(scores));
    }
  }
}

void Appends::ReadScores(const SessionPtr& session, AppendPtr append) {
  const uint64_t ticket = session->next_ticket++;
  const uint64_t position = append->call.request.expected_position;
  const uint64_t count = append->duplicates;
  session->reading.emplace(ticket, std::move(append));
  ReadLog(seams_,
          session,
          position,
          count,
          [this, session, ticket, count](absl::StatusOr<LogSlice> slice) {
            const auto found = session->reading.find(ticket);
            if (found == session->reading.end()) return;
            AppendPtr read = std::move(found->second);
            session->reading.erase(found);
            if (!slice.ok() || slice->scores.size() != count) {
              read->call.Answer(StoreError(slice.status()));
              return;
            }
            std::vector<float> scores = std::move(slice->scores);
            scores.insert(
                scores.end(), read->scores.begin(), read->scores.end());
            Reply(*session, std::move(read), std::move(scores));
          });
}

void Appends::Reply(Session& session,
                    AppendPtr append,
                    std::vector<float> scores) {
  const absl::Duration now = seams_.clock->Now();
  const bool empty = append->call.request.tokens.empty();
  AppendResult result;
  result.duplicate =
      !empty && append->duplicates == append->call.request.tokens.size();
  result.duplicate_tokens = append->duplicates;
  result.position =
      result.duplicate || empty ? session.accepted : append->end();
  result.scores = std::move(scores);
  result.local_position = session.done[LevelIndex(Durability::kLocal)];
  result.shared_position = session.done[LevelIndex(Durability::kShared)];
  session.last_request = now;
  seams_.observer->OnAppendAck(now - append->call.pushed);
  append->call.Answer(std::move(result));
}

}  // namespace weir::service
