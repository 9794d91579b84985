// SPDX-License-Identifier: Apache-2.0
//
// Ends what a client is doing, from another thread: calls in flight are
// cancelled, waits end, and nothing new is begun.
//
// Threads: every method from any thread; mutex_ guards the rest.
#pragma once

#include <set>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "grpcpp/client_context.h"

namespace weir::client {

class Cancellation {
 public:
  void Cancel();
  // Makes calls possible again after a Cancel().
  void Reset();
  bool cancelled() const;

  // Waits so long, or until Cancel(). False if cancelled.
  bool WaitFor(absl::Duration duration);

  // A call in flight, cancelled with the rest while this object lives.
  class Call {
   public:
    // Both must outlive it; `cancellation` may be null.
    Call(Cancellation* cancellation, grpc::ClientContext* context);
    ~Call();
    Call(const Call&) = delete;
    Call& operator=(const Call&) = delete;

   private:
    Cancellation* const cancellation_;
    grpc::ClientContext* const context_;
  };

 private:
  mutable absl::Mutex mutex_;
  bool cancelled_ ABSL_GUARDED_BY(mutex_) = false;
  std::set<grpc::ClientContext*> calls_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace weir::client
