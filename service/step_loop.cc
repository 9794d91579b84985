// SPDX-License-Identifier: Apache-2.0
#include "service/step_loop.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/status_macros.h"
#include "service/endings.h"
#include "service/issue.h"
#include "service/request_check.h"

namespace weir::service {
namespace {

// A model may end before the server's longest session does.
Limits WithModel(Limits limits, const engine::ModelInfo& model) {
  if (model.positions_max > 0) {
    limits.session_tokens_max =
        std::min(limits.session_tokens_max, model.positions_max);
  }
  return limits;
}

}  // namespace

StepLoop::StepLoop(Service::Parts parts, Limits limits)
    : queue_(limits.queue_max, limits.waiting_tokens_max),
      parts_(std::move(parts)),
      seams_{.engine = parts_.engine.get(),
             .store = parts_.store.get(),
             .clock = parts_.clock,
             .observer = parts_.observer,
             .limits = WithModel(limits, parts_.engine->model()),
             .queue = &queue_,
             .table = {},
             .pace = Pace(limits.step_tokens_max),
             .draining = false,
             .fault = {},
             .engine_failure = {}},
      commits_(&seams_),
      appends_(&seams_, &commits_),
      generations_(&seams_, &commits_),
      forks_(&seams_),
      steps_(&seams_, &appends_, &generations_) {
  Publish();
}

// NOLINTNEXTLINE(bugprone-exception-escape): no command is ever valueless.
StepLoop::~StepLoop() {
  queue_.CloseDoor();
  {
    MutexLock lock(&mutex_);
    stopping_ = true;
  }
  queue_.Wake();
  if (thread_.joinable()) {
    thread_.join();
  } else {
    End();
  }
}

void StepLoop::Start() {
  thread_ = std::thread([this] { Run(); });
}

void StepLoop::Run() {
  while (true) {
    {
      MutexLock lock(&mutex_);
      if (stopping_) break;
    }
    if (!RunOnce()) queue_.WaitFor(NextTimer() - now());
  }
  End();
}

bool StepLoop::RunOnce() {
  {
    MutexLock lock(&mutex_);
    seams_.draining = draining_;
  }
  Queue::Batch batch = queue_.Take();
  for (Queue::Task& task : batch.completions) std::move(task)();
  for (Command& command : batch.commands) Dispatch(std::move(command));
  Settle();
  if (seams_.fault.ok()) {
    Watch();
    Settle();
    const absl::Status run =
        seams_.engine_failure.ok() ? steps_.Run() : seams_.engine_failure;
    if (!run.ok()) Fault(run);
    Settle();
  }
  // Again, because the step may have made a caller slow, which sets a timer.
  if (seams_.fault.ok()) {
    Watch();
    Settle();
  }
  if (seams_.fault.ok() && !seams_.engine_failure.ok()) {
    Fault(seams_.engine_failure);
  }
  bool more = seams_.fault.ok() && steps_.HasWork();
  if (!more) {
    generations_.SendHeld();
    // Again: a caller that read while a token was held for it was told of no
    // room, and wakes nobody.
    more = seams_.fault.ok() && steps_.HasWork();
  }
  if (!more) steps_.Rest();
  Publish();
  return more;
}

void StepLoop::Dispatch(Command command) {
  std::visit(
      [&](auto& call) {
        if (!seams_.fault.ok()) {
          call.Answer(seams_.fault);
        } else if (call.cancelled()) {
          call.Answer(
              Error(Reason::kCancelled, "cancelled before it was accepted"));
        } else if (call.late(now())) {
          call.Answer(Error(Reason::kDeadlineInQueue,
                            "too late before it was accepted"));
        } else {
          Handle(std::move(call));
        }
      },
      command);
}

absl::StatusOr<SessionPtr> StepLoop::Create(const OpenRequest& request) {
  WEIR_ASSIGN_OR_RETURN(const int32_t slot, AcquireSlot(seams_));
  const std::string id =
      request.session_id.empty() ? IssueSessionId() : request.session_id;
  if (const absl::Status made = seams_.store->Create(id); !made.ok()) {
    seams_.engine->ReleaseSlot(slot);
    return StoreError(made);
  }
  SessionPtr session = seams_.table.Add(id, now());
  session->slot = slot;
  session->seed = request.seed.has_value() ? *request.seed : IssueSeed();
  session->idle_timeout =
      request.idle_timeout.value_or(seams_.limits.idle_timeout_default);
  seams_.observer->OnSessionOpened();
  return session;
}

absl::StatusOr<OpenResult> StepLoop::Open(const OpenRequest& request) {
  if (!request.session_id.empty()) {
    WEIR_RETURN_IF_ERROR(CheckSessionId(request.session_id));
  }
  if (request.idle_timeout.has_value()) {
    WEIR_RETURN_IF_ERROR(CheckIdleTimeout(*request.idle_timeout,
                                          seams_.limits.idle_timeout_max));
  }
  SessionPtr session = seams_.table.Find(request.session_id);
  const bool created = session == nullptr;
  if (created) {
    WEIR_ASSIGN_OR_RETURN(session, Create(request));
  } else if (request.seed.value_or(session->seed) != session->seed ||
             request.idle_timeout.value_or(session->idle_timeout) !=
                 session->idle_timeout) {
    return Error(Reason::kSessionExists,
                 "the session is open with other parameters");
  }
  session->last_request = now();
  return OpenResult{.session = InfoOf(*session, now()), .created = created};
}

void StepLoop::Handle(OpenCall call) { call.Answer(Open(call.request)); }

void StepLoop::Handle(GetCall call) {
  if (const absl::Status wrong = CheckSessionId(call.request.session_id);
      !wrong.ok()) {
    call.Answer(wrong);
    return;
  }
  const SessionPtr session = seams_.table.Find(call.request.session_id);
  if (session == nullptr) {
    call.Answer(NotFoundError(seams_, call.request.session_id));
    return;
  }
  // The time since the request before this one.
  SessionInfo info = InfoOf(*session, now());
  session->last_request = now();
  call.Answer(std::move(info));
}

void StepLoop::Handle(ListCall call) {
  const int32_t asked = call.request.page_size;
  if (asked < 0) {
    call.Answer(Error(Reason::kBadPage,
                      absl::StrCat("page_size is ", asked, ", not 0 or more"),
                      {{"value", absl::StrCat(asked)}}));
    return;
  }
  const size_t count =
      asked == 0 ? kPageSizeDefault : std::min(asked, kPageSizeMax);
  const std::vector<SessionPtr> page =
      seams_.table.Page(call.request.after, count + 1);
  ListResult result;
  result.more = page.size() > count;
  for (size_t i = 0; i < std::min(count, page.size()); ++i) {
    result.sessions.push_back(InfoOf(*page[i], now()));
  }
  call.Answer(std::move(result));
}

void StepLoop::Handle(CloseCall call) {
  if (const absl::Status wrong = CheckSessionId(call.request.session_id);
      !wrong.ok()) {
    call.Answer(wrong);
    return;
  }
  const SessionPtr session = seams_.table.Find(call.request.session_id);
  CloseResult result;
  if (session != nullptr) {
    result = {.closed = true, .position = session->accepted};
    CloseSession(seams_, session, CloseReason::kClient, NotFoundError());
  }
  call.Answer(result);
}

void StepLoop::Settle() {
  bool more = true;
  while (more) {
    more = commits_.Flush();
    for (Queue::Task& task : queue_.TakeCompletions()) {
      std::move(task)();
      more = true;
    }
    for (const SessionPtr& session : seams_.table.TakeDirty()) {
      appends_.Advance(session);
      forks_.Advance(session);
      generations_.Advance(session);
      if (!session->closed) UpdateActive(session);
      more = true;
    }
  }
}

void StepLoop::UpdateActive(const SessionPtr& session) {
  seams_.table.CountBacklog(*session);
  const bool active = session->rebuild != nullptr ||
                      !session->to_apply.empty() ||
                      session->generation != nullptr;
  if (active) {
    seams_.table.active().emplace(session->serial, session);
  } else {
    seams_.table.active().erase(session->serial);
  }
}

void StepLoop::Watch() {
  for (const auto& [serial, session] : seams_.table.active()) {
    if (session->generation != nullptr) generations_.Watch(session);
  }
  while (const SessionPtr session = seams_.table.NextExpired(now())) {
    seams_.table.NoteExpired(*session);
    CloseSession(seams_, session, CloseReason::kIdle, NotFoundError());
  }
}

absl::Duration StepLoop::NextTimer() const {
  if (!seams_.fault.ok()) return absl::InfiniteDuration();
  absl::Duration next = seams_.table.next_check();
  for (const auto& [serial, session] : seams_.table.active()) {
    if (session->generation != nullptr) {
      next = std::min(next, generations_.next_check(*session));
    }
  }
  return next;
}

void StepLoop::BeginDrain() {
  // The door first: what is in flight then can only become less.
  queue_.CloseDoor();
  {
    MutexLock lock(&mutex_);
    draining_ = true;
  }
  queue_.Wake();
}

bool StepLoop::AwaitDrained(absl::Duration limit) {
  // By the machine's clock: it bounds a wait, it decides nothing.
  const SteadyClock clock;
  const absl::Duration end = clock.Now() + limit;
  MutexLock lock(&mutex_);
  while (!drained_) {
    const absl::Duration left = end - clock.Now();
    if (left <= absl::ZeroDuration()) return false;
    condition_.WaitFor(&mutex_, left);
  }
  return true;
}

void StepLoop::Fault(const absl::Status& cause) {
  // Said before anybody is answered: who hears of it may ask at once.
  {
    MutexLock lock(&mutex_);
    fault_ = std::string(cause.message());
    if (fault_.empty()) fault_ = "unknown";
  }
  seams_.fault = health();
  for (const SessionPtr& session : seams_.table.All()) {
    EndAll(*session, seams_.fault);
  }
  seams_.table.active().clear();
}

void StepLoop::Publish() {
  Levels levels;
  levels.slots = parts_.engine->slots();
  levels.slots_free = parts_.engine->slots_free();
  levels.sessions = static_cast<int64_t>(seams_.table.size());
  levels.requests_running = steps_.running();
  levels.requests_waiting = steps_.waiting();
  levels.backlog_tokens = seams_.table.backlog();
  levels.log_bytes = parts_.store->MemoryBytes();
  parts_.observer->OnLevels(levels);
  MutexLock lock(&mutex_);
  info_ = {.slots = levels.slots,
           .slots_free = levels.slots_free,
           .sessions = levels.sessions};
  if (draining_ && queue_.in_flight() == 0) {
    drained_ = true;
    condition_.Notify();
  }
}

void StepLoop::End() {
  for (Command& command : queue_.Take().commands) {
    std::visit([](auto& call) { call.Answer(DrainingError()); }, command);
  }
  for (const SessionPtr& session : seams_.table.All()) {
    CloseSession(seams_, session, CloseReason::kDrain, DrainingError());
  }
}

ServiceInfo StepLoop::info() const {
  MutexLock lock(&mutex_);
  return info_;
}

absl::Status StepLoop::health() const {
  MutexLock lock(&mutex_);
  if (fault_.empty()) return absl::OkStatus();
  return Error(Reason::kDeviceFault,
               absl::StrCat("the device has failed: ", fault_));
}

}  // namespace weir::service
