// SPDX-License-Identifier: Apache-2.0
#include "client/stall_guard.h"

namespace weir::client {

StallGuard::StallGuard(grpc::ClientContext* context, absl::Duration silence_max)
    : context_(context),
      silence_max_(silence_max),
      due_(absl::Now() + silence_max),
      thread_([this] { Watch(); }) {}

StallGuard::~StallGuard() {
  {
    absl::MutexLock lock(&mutex_);
    stop_ = true;
  }
  thread_.join();
}

void StallGuard::Heard(bool armed) {
  absl::MutexLock lock(&mutex_);
  due_ = armed ? absl::Now() + silence_max_ : absl::InfiniteFuture();
}

void StallGuard::Overheard() {
  absl::MutexLock lock(&mutex_);
  if (due_ != absl::InfiniteFuture()) due_ = absl::Now() + silence_max_;
}

bool StallGuard::stalled() const {
  absl::MutexLock lock(&mutex_);
  return stalled_;
}

void StallGuard::Watch() {
  absl::MutexLock lock(&mutex_);
  // due_ moves on with every message; waking for each of them would cost more
  // than looking again when the old time has come.
  while (!stop_ && absl::Now() < due_) {
    const absl::Time until = std::min(due_, absl::Now() + silence_max_);
    mutex_.AwaitWithDeadline(absl::Condition(&stop_), until);
  }
  if (stop_) return;
  stalled_ = true;
  context_->TryCancel();
}

}  // namespace weir::client
