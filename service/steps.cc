// SPDX-License-Identifier: Apache-2.0
#include "service/steps.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "service/endings.h"

namespace weir::service {
namespace {

absl::Status NonFiniteError(const Session& session) {
  return Error(
      Reason::kNonFiniteState,
      absl::StrCat("the session's state is not finite after ", session.applied),
      {{"lastGoodPosition", absl::StrCat(session.applied)}});
}

}  // namespace

Steps::Work Steps::NextWork(const SessionPtr& session,
                            const Appends& appends,
                            const Generations& generations) {
  Work work{.session = session, .kind = Kind::kNone, .token = {}, .tokens = {}};
  const uint64_t room = Forks::RoomFor(*session);
  if (room == 0) return work;
  if (session->rebuild != nullptr) {
    work.tokens = Forks::Waiting(*session);
    if (!work.tokens.empty()) work.kind = Kind::kRebuild;
  } else if (!session->to_apply.empty()) {
    work.tokens = appends.Waiting(*session);
    work.kind = Kind::kAppend;
  } else if (session->generation != nullptr && generations.WantsRow(*session)) {
    work.kind = Kind::kGeneration;
    const std::optional<uint32_t>& token = session->generation->token;
    if (token.has_value()) work.token = {*token};
    work.tokens = work.token;
  }
  if (work.tokens.size() > room) work.tokens = work.tokens.first(room);
  return work;
}

bool Steps::HasWork() {
  for (const auto& [serial, session] : seams_.table.active()) {
    if (NextWork(session, appends_, generations_).kind != Kind::kNone) {
      return true;
    }
  }
  return false;
}

engine::Row Steps::ToRow(const Work& work, int64_t tokens) const {
  engine::Row row;
  row.slot = work.session->slot;
  row.tokens = work.tokens.first(tokens);
  row.first = work.session->applied == 0;
  if (work.kind == Kind::kAppend) {
    row.want_scores = appends_.WantsScores(*work.session);
  }
  if (work.kind == Kind::kGeneration &&
      generations_.WantsSample(*work.session)) {
    row.sample = generations_.SamplingOf(*work.session);
  }
  return row;
}

absl::Status Steps::Run() {
  std::vector<Work> works;
  std::vector<WaitingRow> waiting;
  for (const auto& [serial, session] : seams_.table.active()) {
    Work work = NextWork(session, appends_, generations_);
    if (work.kind == Kind::kNone) continue;
    waiting.push_back({.key = serial,
                       .slot = session->slot,
                       .tokens = static_cast<int64_t>(work.tokens.size()),
                       .decode = work.kind == Kind::kGeneration});
    works.push_back(std::move(work));
  }
  running_ = 0;
  if (works.empty()) return absl::OkStatus();

  const StepPlan planned =
      PlanStep(waiting,
               {.rows_max = seams_.limits.step_rows_max,
                .tokens_max = seams_.limits.step_tokens_max},
               turn_);
  turn_ = planned.turn;
  engine::Plan plan;
  stats_ = StepStats{};
  bool decode = false;
  bool prefill = false;
  for (const PlannedRow& row : planned.rows) {
    Work& work = works[row.index];
    if (work.kind == Kind::kAppend) appends_.OnStart(*work.session);
    if (work.kind == Kind::kGeneration) generations_.OnStart(*work.session);
    plan.rows.push_back(ToRow(work, row.tokens));
    (row.tokens > 1 ? prefill : decode) = true;
    stats_.tokens += row.tokens;
    running_ += work.kind == Kind::kRebuild ? 0 : 1;
  }
  // Now, because what the step completes leaves its session.
  waiting_ = Requests() - running_;
  stats_.rows = static_cast<int32_t>(plan.rows.size());
  stats_.phase = decode && prefill ? StepPhase::kMixed
                 : prefill         ? StepPhase::kPrefill
                                   : StepPhase::kDecode;

  const absl::Duration start = seams_.clock->Now();
  const absl::StatusOr<engine::Ticket> ticket = seams_.engine->Submit(plan);
  if (!ticket.ok()) return ticket.status();
  generations_.SendHeld();
  absl::StatusOr<engine::StepResult> result = seams_.engine->Wait(*ticket);
  if (!result.ok()) return result.status();
  stats_.duration = seams_.clock->Now() - start;
  seams_.observer->OnStep(stats_);
  seams_.pace.OnStep(stats_);
  for (size_t i = 0; i < planned.rows.size(); ++i) {
    Apply(works[planned.rows[i].index],
          static_cast<uint64_t>(planned.rows[i].tokens),
          std::move(result->rows[i]));
  }
  return absl::OkStatus();
}

void Steps::Apply(const Work& work, uint64_t tokens, engine::RowResult result) {
  Session& session = *work.session;
  seams_.table.MarkDirty(work.session);
  if (!result.finite) {
    const absl::Status error = NonFiniteError(session);
    if (work.kind == Kind::kRebuild) {
      CloseSession(seams_, work.session, CloseReason::kError, error);
    } else {
      Quarantine(session, session.applied, error);
    }
    return;
  }
  session.applied += tokens;
  if (work.kind == Kind::kAppend) {
    appends_.OnRow(work.session, tokens, std::move(result.scores));
  } else if (work.kind == Kind::kGeneration) {
    generations_.OnRow(work.session, result.sampled);
  }
}

void Steps::Rest() {
  running_ = 0;
  waiting_ = Requests();
}

int64_t Steps::Requests() const {
  int64_t requests = 0;
  for (const auto& [serial, session] : seams_.table.active()) {
    requests += static_cast<int64_t>(session->to_apply.size()) +
                (session->generation != nullptr ? 1 : 0);
  }
  return requests;
}

}  // namespace weir::service
