// SPDX-License-Identifier: Apache-2.0
#include "client/cancellation.h"

namespace weir::client {

void Cancellation::Cancel() {
  absl::MutexLock lock(&mutex_);
  cancelled_ = true;
  for (grpc::ClientContext* context : calls_) context->TryCancel();
}

void Cancellation::Reset() {
  absl::MutexLock lock(&mutex_);
  cancelled_ = false;
}

bool Cancellation::cancelled() const {
  absl::MutexLock lock(&mutex_);
  return cancelled_;
}

bool Cancellation::WaitFor(absl::Duration duration) {
  absl::MutexLock lock(&mutex_);
  return !mutex_.AwaitWithTimeout(absl::Condition(&cancelled_), duration);
}

Cancellation::Call::Call(Cancellation* cancellation,
                         grpc::ClientContext* context)
    : cancellation_(cancellation), context_(context) {
  if (cancellation_ == nullptr) return;
  absl::MutexLock lock(&cancellation_->mutex_);
  cancellation_->calls_.insert(context_);
  // TryCancel before the call has begun makes it end at once.
  if (cancellation_->cancelled_) context_->TryCancel();
}

Cancellation::Call::~Call() {
  if (cancellation_ == nullptr) return;
  absl::MutexLock lock(&cancellation_->mutex_);
  cancellation_->calls_.erase(context_);
}

}  // namespace weir::client
