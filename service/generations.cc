// SPDX-License-Identifier: Apache-2.0
#include "service/generations.h"

#include <algorithm>
#include <cmath>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/status_macros.h"
#include "service/endings.h"
#include "service/request_check.h"

namespace weir::service {
namespace {

// How far back a repetition penalty looks.
constexpr uint64_t kRecentMax = 1024;
// Logged tokens that are sent again in one event.
constexpr uint64_t kReplayTokens = 1024;

absl::Status BusyError() {
  return Error(Reason::kSessionBusy,
               "the session has appends or a generation under way; try again "
               "after them");
}

absl::Status SlowError(const Limits& limits) {
  const std::string after = absl::FormatDuration(limits.slow_consumer_after);
  return Error(Reason::kSlowConsumer,
               absl::StrCat("nothing was read for ",
                            after,
                            "; the tokens are kept in the session"),
               {{"limit", after}});
}

bool Penalises(const GenerationRecord& record) {
  return record.sampling.repetition_penalty != 1;
}

size_t StopBytes(const GenerationRecord& record) {
  size_t bytes = record.stop_tokens.size() * sizeof(uint32_t);
  for (const std::string& stop : record.stop_strings) bytes += stop.size();
  return bytes;
}

}  // namespace

absl::Status Generations::Check(const GenerateRequest& request) const {
  const uint32_t vocabulary = seams_.engine->model().vocabulary;
  WEIR_RETURN_IF_ERROR(CheckSessionId(request.session_id));
  WEIR_RETURN_IF_ERROR(CheckRequestId(request.request_id));
  WEIR_RETURN_IF_ERROR(CheckSampling(request.sampling));
  WEIR_RETURN_IF_ERROR(CheckStopTokens(request.stop_tokens, vocabulary));
  return CheckDurability(*seams_.store, request.durability);
}

absl::Status Generations::CheckState(const Session& session) const {
  if (session.quarantined) return QuarantinedError(session);
  if (seams_.draining) return DrainingError();
  if (session.generation != nullptr || session.has_appends() ||
      session.rebuild != nullptr) {
    return BusyError();
  }
  if (session.accepted == 0) {
    return Error(Reason::kEmptySession,
                 "a generation needs a token before it; append one first");
  }
  return absl::OkStatus();
}

absl::StatusOr<std::shared_ptr<GenerationRecord>> Generations::Begin(
    Session& session, const GenerateRequest& request) const {
  const uint64_t end = session.accepted;
  const uint64_t expected = request.expected_position.value_or(end);
  if (expected > end) {
    return PositionError(Reason::kPositionGap, session, expected);
  }
  if (expected < end) {
    return PositionError(Reason::kPositionConflict, session, expected);
  }
  const uint64_t room = seams_.limits.session_tokens_max - end;
  if (request.max_tokens > 0 && room == 0) {
    return LengthError(seams_, session, expected);
  }
  auto record = std::make_shared<GenerationRecord>();
  record->request_id = request.request_id;
  record->start = end;
  record->end = end;
  record->tokens_max = static_cast<uint32_t>(std::min<uint64_t>(
      {request.max_tokens, seams_.limits.generate_tokens_max, room}));
  record->seed = request.sampling.seed.value_or(session.seed);
  record->sampling = request.sampling;
  record->stop_strings = request.stop_strings;
  record->stop_tokens = request.stop_tokens;
  record->want_log_probs = request.want_log_probs;
  record->durability = request.durability;
  session.generations.Put(request.request_id, record, StopBytes(*record));
  return record;
}

absl::StatusOr<std::shared_ptr<GenerationRecord>> Generations::Resume(
    const Session& session,
    const GenerateRequest& request,
    std::shared_ptr<GenerationRecord> record) const {
  const uint64_t from = request.expected_position.value_or(record->start);
  if (from > session.accepted) {
    return PositionError(Reason::kPositionGap, session, from);
  }
  if (from < record->start || from > record->end) {
    return PositionError(Reason::kPositionConflict, session, from);
  }
  return record;
}

void Generations::Handle(GenerateCall call) {
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
  if (const absl::Status wrong = CheckState(*session); !wrong.ok()) {
    call.Answer(wrong);
    return;
  }
  const auto* known = session->generations.Find(call.request.request_id);
  auto record = known == nullptr ? Begin(*session, call.request)
                                 : Resume(*session, call.request, *known);
  if (!record.ok()) {
    call.Answer(record.status());
    return;
  }
  auto generation = std::make_unique<Generation>(std::move(call));
  generation->record = *std::move(record);
  if (TextSink* const text = generation->call.request.text.get()) {
    text->StopAt(generation->record->stop_strings);
  }
  generation->phase = Generation::Phase::kReplaying;
  generation->replay_next = generation->record->start;
  generation->send_from = generation->call.request.expected_position.value_or(
      generation->record->start);
  session->generation = std::move(generation);
  seams_.table.MarkDirty(session);
}

bool Generations::Paused(const Generation& generation) const {
  return generation.call.unsent() + std::ssize(generation.held) >=
         seams_.limits.unsent_events_max;
}

bool Generations::WantsSample(const Session& session) const {
  return session.generation->ending.ok() &&
         !session.generation->last_event.has_value();
}

bool Generations::WantsRow(const Session& session) const {
  const Generation& generation = *session.generation;
  if (generation.phase != Generation::Phase::kRunning) return false;
  return WantsSample(session) ? !Paused(generation)
                              : generation.token.has_value();
}

engine::Sampling Generations::SamplingOf(const Session& session) const {
  const Generation& generation = *session.generation;
  engine::Sampling sampling = ToSampling(generation.record->sampling);
  sampling.seed = generation.record->seed;
  sampling.position = session.accepted;
  sampling.recent = generation.recent;
  return sampling;
}

void Generations::OnStart(Session& session) {
  Generation& generation = *session.generation;
  if (std::exchange(generation.started, true)) return;
  seams_.observer->OnQueueTime(seams_.clock->Now() - generation.call.pushed);
  seams_.observer->OnReused(session.applied);
}

void Generations::OnRow(const SessionPtr& session,
                        const std::optional<engine::Sampled>& sampled) {
  Generation& generation = *session->generation;
  if (std::exchange(generation.token, std::nullopt).has_value() &&
      generation.record->want_log_probs && std::isfinite(generation.log_prob)) {
    ++session->scored_tokens;
    session->sum_log_prob += generation.log_prob;
  }
  if (!sampled.has_value()) return;
  generation.token = sampled->token;
  generation.log_prob = sampled->log_prob;
  generation.phase = Generation::Phase::kCommitting;
  commits_.Accept(session, {sampled->token}, generation.record->durability);
}

void Generations::Advance(const SessionPtr& session) {
  if (session->generation == nullptr) return;
  Generation& generation = *session->generation;
  if (generation.phase == Generation::Phase::kCommitting) {
    const size_t level = LevelIndex(generation.record->durability);
    if (session->done[level] < session->accepted) return;
    Deliver(session);
  }
  if (!WantsSample(*session) && !generation.token.has_value()) {
    Finish(session);
    return;
  }
  if (generation.phase == Generation::Phase::kReplaying &&
      !generation.reading && !Paused(generation)) {
    Replay(session);
  }
}

void Generations::Replay(const SessionPtr& session) {
  const Generation& generation = *session->generation;
  const uint64_t left = generation.record->end - generation.replay_next;
  if (left == 0) {
    AfterReplay(session);
  } else {
    ReadFor(session,
            generation.replay_next,
            std::min<uint64_t>(left, kReplayTokens));
  }
}

void Generations::OnReplayed(const SessionPtr& session, const LogSlice& slice) {
  Generation& generation = *session->generation;
  TextSink* const text = generation.call.request.text.get();
  GenerateEvent event;
  for (size_t i = 0; i < slice.tokens.size(); ++i) {
    // The sink sees them all: a character or a stop string may have begun
    // before the client's part.
    const std::string shown =
        text == nullptr ? "" : text->Push(slice.tokens[i]);
    if (slice.position + i < generation.send_from) continue;
    event.tokens.push_back(slice.tokens[i]);
    event.text += shown;
    if (generation.record->want_log_probs) {
      event.log_probs.push_back(slice.scores[i]);
    }
  }
  generation.replay_next += slice.tokens.size();
  if (event.tokens.empty()) return;
  event.position = generation.replay_next;
  event.duplicate = true;
  Send(generation, std::move(event));
}

void Generations::AfterReplay(const SessionPtr& session) {
  Generation& generation = *session->generation;
  GenerationRecord& record = *generation.record;
  if (record.finish == FinishReason::kNone) {
    if (session->accepted != record.end) {
      record.finish = FinishReason::kInterrupted;
    } else if (record.end - record.start >= record.tokens_max) {
      record.finish = FinishReason::kLength;
    } else {
      Look(session);
      return;
    }
  }
  GenerateEvent event;
  TextSink* const text = generation.call.request.text.get();
  if (text != nullptr && text->stop() != nullptr) {
    event.stop_string = *text->stop();
  } else if (text != nullptr) {
    event.text = text->Flush();
  }
  event.position = record.end;
  event.finish = record.finish;
  generation.last_event = std::move(event);
  Finish(session);
}

void Generations::Look(const SessionPtr& session) {
  Generation& generation = *session->generation;
  if (!Penalises(*generation.record)) {
    generation.phase = Generation::Phase::kRunning;
    return;
  }
  generation.phase = Generation::Phase::kLooking;
  const uint64_t count = std::min(session->accepted, kRecentMax);
  ReadFor(session, session->accepted - count, count);
}

void Generations::ReadFor(const SessionPtr& session,
                          uint64_t position,
                          uint64_t count) {
  const uint64_t ticket = session->next_ticket++;
  session->generation->ticket = ticket;
  session->generation->reading = true;
  ReadLog(seams_,
          session,
          position,
          count,
          [this, session, ticket](absl::StatusOr<LogSlice> slice) {
            OnRead(session, ticket, std::move(slice));
          });
}

void Generations::OnRead(const SessionPtr& session,
                         uint64_t ticket,
                         absl::StatusOr<LogSlice> slice) {
  if (session->generation == nullptr || session->generation->ticket != ticket) {
    return;
  }
  Generation& generation = *session->generation;
  generation.reading = false;
  if (!slice.ok() || slice->tokens.empty()) {
    Fail(session, StoreError(slice.status()));
  } else if (generation.phase == Generation::Phase::kReplaying) {
    OnReplayed(session, *slice);
  } else {
    generation.recent = std::move(slice->tokens);
    generation.phase = Generation::Phase::kRunning;
  }
}

void Generations::Deliver(const SessionPtr& session) {
  Generation& generation = *session->generation;
  GenerationRecord& record = *generation.record;
  const GenerateRequest& request = generation.call.request;
  const uint32_t token = *generation.token;
  const absl::Duration now = seams_.clock->Now();
  seams_.observer->OnGenerated(
      !generation.token_time.has_value(),
      now - generation.token_time.value_or(generation.call.pushed));
  generation.token_time = now;
  generation.phase = Generation::Phase::kRunning;
  record.end = session->accepted;

  GenerateEvent event;
  event.tokens = {token};
  event.position = record.end;
  if (record.want_log_probs) {
    event.log_probs = {generation.log_prob};
    seams_.store->PutScores(
        {session->id, record.end - 1, {generation.log_prob}});
  }
  if (Penalises(record)) {
    generation.recent.push_back(token);
    if (generation.recent.size() > kRecentMax) {
      generation.recent.erase(generation.recent.begin());
    }
  }
  if (request.text != nullptr) event.text = request.text->Push(token);
  const bool stop_string =
      request.text != nullptr && request.text->stop() != nullptr;
  if (stop_string) event.stop_string = *request.text->stop();
  if (stop_string ||
      std::count(record.stop_tokens.begin(), record.stop_tokens.end(), token) >
          0) {
    record.finish = FinishReason::kStop;
  } else if (record.end - record.start >= record.tokens_max) {
    record.finish = FinishReason::kLength;
  }
  if (record.finish == FinishReason::kNone) {
    generation.held.push_back(std::move(event));
    holding_.push_back(session);
    return;
  }
  if (request.text != nullptr && !stop_string) {
    event.text += request.text->Flush();
  }
  event.finish = record.finish;
  generation.last_event = std::move(event);
}

void Generations::SendHeld() {
  for (const SessionPtr& session : std::exchange(holding_, {})) {
    if (session->generation != nullptr) session->generation->SendHeld();
  }
}

void Generations::Send(Generation& generation, GenerateEvent event) {
  generation.SendHeld();
  if (generation.call.request.on_event) {
    generation.call.request.on_event(std::move(event));
  }
}

void Generations::Watch(const SessionPtr& session) {
  Generation& generation = *session->generation;
  if (!WantsSample(*session)) return;
  const absl::Duration now = seams_.clock->Now();
  const int32_t unsent = generation.call.unsent();
  if (generation.call.cancelled()) {
    generation.ending =
        Error(Reason::kCancelled, "the generation was cancelled");
  } else if (seams_.draining) {
    generation.ending = DrainingError();
  } else if (const absl::Status full = CheckRoom(generation); !full.ok()) {
    generation.ending = full;
  } else if (!Paused(generation)) {
    generation.paused_since.reset();
  } else if (!generation.paused_since.has_value() ||
             unsent < generation.unsent_seen) {
    generation.paused_since = now;
  } else if (now - *generation.paused_since >=
             seams_.limits.slow_consumer_after) {
    generation.ending = SlowError(seams_.limits);
  }
  generation.unsent_seen = unsent;
  seams_.table.MarkDirty(session);
}

// Of one that is about to draw: what is sent again takes no room.
absl::Status Generations::CheckRoom(const Generation& generation) const {
  if (generation.phase != Generation::Phase::kRunning) return absl::OkStatus();
  return commits_.CheckRoom(1, generation.record->want_log_probs);
}

absl::Duration Generations::next_check(const Session& session) const {
  const std::optional<absl::Duration>& since = session.generation->paused_since;
  return since.has_value() && WantsSample(session)
             ? *since + seams_.limits.slow_consumer_after
             : absl::InfiniteDuration();
}

void Generations::Finish(const SessionPtr& session) {
  const std::unique_ptr<Generation> ended = std::move(session->generation);
  session->last_request = seams_.clock->Now();
  ended->SendHeld();
  if (!ended->last_event.has_value()) {
    ended->call.Answer(ended->ending);
    return;
  }
  ended->last_event->max_tokens = ended->record->tokens_max;
  Send(*ended, *std::move(ended->last_event));
  ended->call.Answer(GenerateResult{});
}

void Generations::Fail(const SessionPtr& session, const absl::Status& error) {
  const std::unique_ptr<Generation> ended = std::move(session->generation);
  session->last_request = seams_.clock->Now();
  ended->SendHeld();
  ended->call.Answer(error);
}

}  // namespace weir::service
