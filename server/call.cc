// SPDX-License-Identifier: Apache-2.0
#include "server/call.h"

#include <grpc/support/time.h>

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"

namespace weir::server {
namespace {

using service::Reason;

// A request that has not been accepted by then is dropped, whatever its client
// says, and so is one whose client says nothing.
constexpr absl::Duration kDeadlineMost = absl::Minutes(5);

absl::Duration ClientDeadline(const grpc::CallbackServerContext& context,
                              absl::Duration now) {
  // Not context.deadline(): its type ends after 292 years, and grpc-timeout may
  // ask for more.
  const gpr_timespec deadline = context.raw_deadline();
  if (gpr_time_cmp(deadline, gpr_inf_future(deadline.clock_type)) >= 0) {
    return absl::InfiniteDuration();
  }
  const gpr_timespec left =
      gpr_time_sub(deadline, gpr_now(deadline.clock_type));
  return now + absl::Seconds(left.tv_sec) + absl::Nanoseconds(left.tv_nsec);
}

}  // namespace

MessageView::MessageView(const grpc::ByteBuffer& buffer) {
  if (!buffer.TrySingleSlice(&slice_).ok()) {
    // An invalid buffer gives an empty slice: the empty message.
    static_cast<void>(buffer.DumpToSingleSlice(&slice_));
  }
}

Call::Call(std::shared_ptr<Host> host,
           Kind kind,
           grpc::CallbackServerContext* context)
    : host_(std::move(host)),
      kind_(kind),
      begun_(host_->clock->Now()),
      deadline_(ClientDeadline(*context, begun_)),
      state_(std::make_shared<service::CallState>()),
      context_(context) {}

grpc::ServerBidiReactor<grpc::ByteBuffer, grpc::ByteBuffer>* Call::Begin(
    std::shared_ptr<Call> call) {
  Call* const reactor = call.get();
  reactor->host_->metrics->OnRpcStarted(reactor->kind_.rpc,
                                        reactor->kind_.shape);
  reactor->host_->calls.Add(call);
  reactor->self_ = std::move(call);
  reactor->Start();
  return reactor;
}

void Call::Send(const grpc::ByteBuffer& message, bool event) {
  if (event) state_->unsent.fetch_add(1, std::memory_order_relaxed);
  const std::lock_guard lock(mutex_);
  if (ended_ || closing_) return;
  Enqueue(message, event);
  Pump();
}

void Call::SendLast(const grpc::ByteBuffer& message, bool event) {
  if (event) state_->unsent.fetch_add(1, std::memory_order_relaxed);
  const std::lock_guard lock(mutex_);
  if (ended_ || closing_) return;
  Enqueue(message, event);
  closing_ = true;
  Pump();
}

void Call::Close(const absl::Status& status) {
  const std::lock_guard lock(mutex_);
  if (ended_ || closing_) return;
  closing_ = true;
  status_ = status;
  Pump();
}

void Call::Abort(const absl::Status& status) {
  const std::lock_guard lock(mutex_);
  if (ended_) return;
  queue_.clear();
  End(status);
  Finish(ToGrpc(status));
}

void Call::Refuse(const absl::Status& status) {
  {
    const std::lock_guard lock(mutex_);
    if (ended_ || closing_) return;
    refusal_ = service::ReasonOf(status);
  }
  Close(status);
}

void Call::CountRefusal(const absl::Status& status) {
  host_->metrics->OnRejected(
      service::ReasonOf(status).value_or(Reason::kInternal));
}

// A client that has stopped reading gets the status behind what is on its way
// to it, and if it does not take that either, a reset.
void Call::Tick(absl::Duration now) {
  const absl::Duration limit = host_->served.limits.slow_consumer_after;
  bool slow = false;
  {
    const std::lock_guard lock(mutex_);
    if (done_) return;
    if (ended_ && now - ended_at_ >= limit) context_->TryCancel();
    slow = !ended_ && writing_ && now - write_begun_ >= limit;
  }
  if (slow) {
    const std::string seconds = absl::FormatDuration(limit);
    const absl::Status status =
        Error(Reason::kSlowConsumer,
              absl::StrCat("nothing was read for ",
                           seconds,
                           "; what was accepted stands, read the position"),
              {{"limit", seconds}});
    // Before it is cancelled, which is no more than a consequence of this.
    if (!state_->slow.exchange(true)) CountRefusal(status);
    state_->cancelled.store(true);
    host_->service->Wake();
    Abort(status);
  }
  OnTick(now);
}

service::CallContext Call::ServiceContext() const {
  return {std::min(deadline_, host_->clock->Now() + kDeadlineMost), state_};
}

void Call::OnWriteDone(bool ok) {
  bool event = false;
  {
    const std::lock_guard lock(mutex_);
    writing_ = false;
    event = sending_.event;
    unsent_bytes_ -= sending_.bytes;
    sending_ = {};
    // The client is gone; OnCancel says so too.
    if (!ok) queue_.clear();
    Pump();
  }
  if (ok) host_->metrics->OnMessageSent(kind_.rpc);
  if (event) {
    const int32_t before = state_->unsent.fetch_sub(1);
    if (before >= host_->served.limits.unsent_events_max) {
      host_->service->Wake();
    }
  }
  OnSent();
}

void Call::OnCancel() {
  {
    const std::lock_guard lock(mutex_);
    cancelled_ = true;
  }
  state_->cancelled.store(true);
  host_->service->Wake();
  Abort(absl::CancelledError("the client has gone"));
}

void Call::OnDone() {
  const absl::Duration now = host_->clock->Now();
  std::shared_ptr<Call> self;
  std::optional<Reason> refusal;
  absl::StatusCode code;
  {
    const std::lock_guard lock(mutex_);
    done_ = true;
    self = std::move(self_);
    code = code_;
    if (!cancelled_) {
      refusal = refusal_;
    } else {
      code = now >= deadline_ ? absl::StatusCode::kDeadlineExceeded
                              : absl::StatusCode::kCancelled;
    }
  }
  host_->metrics->OnRpcDone(kind_.rpc, kind_.shape, code, now - begun_);
  if (refusal) host_->metrics->OnRejected(*refusal);
  host_->calls.Remove(this);
}

bool Call::Read(grpc::ByteBuffer* message) {
  const std::lock_guard lock(mutex_);
  if (ended_) return false;
  StartRead(message);
  return true;
}

Call::Unsent Call::unsent() const {
  const std::lock_guard lock(mutex_);
  return {queue_.size() + (writing_ ? 1 : 0), unsent_bytes_};
}

void Call::Enqueue(const grpc::ByteBuffer& message, bool event) {
  const size_t bytes = message.Length();
  unsent_bytes_ += bytes;
  queue_.push_back({message, bytes, event});
}

void Call::Pump() {
  if (writing_ || ended_) return;
  if (queue_.empty()) {
    if (!closing_) return;
    End(status_);
    Finish(ToGrpc(status_));
    return;
  }
  sending_ = std::move(queue_.front());
  queue_.pop_front();
  if (closing_ && queue_.empty() && status_.ok()) {
    End(status_);
    host_->metrics->OnMessageSent(kind_.rpc);
    StartWriteAndFinish(&sending_.message, {}, grpc::Status::OK);
    return;
  }
  writing_ = true;
  write_begun_ = host_->clock->Now();
  StartWrite(&sending_.message);
}

void Call::End(const absl::Status& status) {
  ended_ = true;
  ended_at_ = host_->clock->Now();
  code_ = status.code();
}

void Calls::Add(const std::shared_ptr<Call>& call) {
  const std::lock_guard lock(mutex_);
  calls_.emplace(call.get(), call);
}

void Calls::Remove(const Call* call) {
  const std::lock_guard lock(mutex_);
  calls_.erase(call);
}

void Calls::Tick(absl::Duration now) {
  for (const std::shared_ptr<Call>& call : All()) call->Tick(now);
}

void Calls::Stop() {
  for (const std::shared_ptr<Call>& call : All()) call->OnStopping();
}

std::vector<std::shared_ptr<Call>> Calls::All() const {
  std::vector<std::shared_ptr<Call>> calls;
  const std::lock_guard lock(mutex_);
  for (const auto& [key, call] : calls_) {
    if (std::shared_ptr<Call> held = call.lock()) calls.push_back(held);
  }
  return calls;
}

}  // namespace weir::server
