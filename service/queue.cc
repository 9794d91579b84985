// SPDX-License-Identifier: Apache-2.0
#include "service/queue.h"

#include <string>

#include "absl/strings/str_cat.h"

namespace weir::service {
namespace {

int64_t TokensOf(const Command& command) {
  const auto* append = std::get_if<AppendCall>(&command);
  return append == nullptr
             ? 0
             : static_cast<int64_t>(append->request.tokens.size());
}

absl::Status Full(std::string_view what, int64_t limit) {
  return Error(Reason::kQueueFull,
               absl::StrCat("the queue is full: ",
                            limit,
                            " ",
                            absl::string_view(what.data(), what.size()),
                            " in flight"),
               {{"limit", absl::StrCat(limit)}});
}

}  // namespace

void Permit::Release() {
  if (queue_ != nullptr) std::exchange(queue_, nullptr)->Release(tokens_);
}

void Queue::Reservation::Post(Task task) {
  WEIR_CHECK(queue_ != nullptr);
  Queue* queue = std::exchange(queue_, nullptr);
  MutexLock lock(&queue->mutex_);
  WEIR_CHECK(queue->reserved_ > 0);
  --queue->reserved_;
  queue->completions_.push_back(std::move(task));
  queue->condition_.Notify();
}

absl::Status Queue::TryPush(Command& command) {
  const int64_t tokens = TokensOf(command);
  MutexLock lock(&mutex_);
  if (closed_) {
    return Error(Reason::kServerDraining, "the server is stopping");
  }
  if (in_flight_ >= commands_max_) return Full("requests", commands_max_);
  // One append always fits, or it never would.
  if (tokens_ > 0 && tokens > tokens_max_ - tokens_) {
    return Full("tokens", tokens_max_);
  }
  ++in_flight_;
  tokens_ += tokens;
  std::visit([&](auto& call) { call.permit = Permit(this, tokens); }, command);
  commands_.push_back(std::move(command));
  condition_.Notify();
  return absl::OkStatus();
}

void Queue::Push(Command command) {
  const absl::Status refused = TryPush(command);
  if (refused.ok()) return;
  std::visit([&](auto& call) { call.Answer(refused); }, command);
}

void Queue::CloseDoor() {
  MutexLock lock(&mutex_);
  closed_ = true;
  woken_ = true;
  condition_.Notify();
}

void Queue::Wake() {
  MutexLock lock(&mutex_);
  woken_ = true;
  condition_.Notify();
}

Queue::Reservation Queue::Reserve() {
  MutexLock lock(&mutex_);
  ++reserved_;
  const size_t needed = completions_.size() + reserved_;
  if (completions_.capacity() < needed) completions_.reserve(2 * needed);
  return Reservation(this);
}

Queue::Batch Queue::Take() {
  Batch batch;
  batch.completions = TakeCompletions();
  MutexLock lock(&mutex_);
  batch.commands.swap(commands_);
  woken_ = false;
  return batch;
}

std::vector<Queue::Task> Queue::TakeCompletions() {
  MutexLock lock(&mutex_);
  std::vector<Task> taken;
  if (completions_.empty()) return taken;
  taken.swap(completions_);
  completions_.reserve(2 * reserved_);
  return taken;
}

void Queue::WaitFor(absl::Duration limit) {
  MutexLock lock(&mutex_);
  if (woken_ || !commands_.empty() || !completions_.empty()) return;
  condition_.WaitFor(&mutex_, limit);
}

int64_t Queue::in_flight() const {
  MutexLock lock(&mutex_);
  return in_flight_;
}

void Queue::Release(int64_t tokens) {
  MutexLock lock(&mutex_);
  --in_flight_;
  tokens_ -= tokens;
}

}  // namespace weir::service
