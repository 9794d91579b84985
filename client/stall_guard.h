// SPDX-License-Identifier: Apache-2.0
//
// Cancels a streaming call that has been silent for too long. A stream has no
// deadline of its own (it may rightly run for hours), so silence is what tells
// a dead peer from a long answer.
//
// Threads: owned by the call's thread; has one thread that waits. mutex_
// guards what both touch.
#pragma once

#include <thread>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "grpcpp/client_context.h"

namespace weir::client {

class StallGuard {
 public:
  // `context` must outlive it. Armed at first.
  StallGuard(grpc::ClientContext* context, absl::Duration silence_max);
  ~StallGuard();
  StallGuard(const StallGuard&) = delete;
  StallGuard& operator=(const StallGuard&) = delete;

  // Something was heard. `armed` is false while no answer is due.
  void Heard(bool armed = true);
  // Something was heard while the call's thread is busy, with a write perhaps:
  // the silence begins anew, if one is being watched. From any thread.
  void Overheard();
  // Whether it cancelled the call.
  bool stalled() const;

 private:
  void Watch();

  grpc::ClientContext* const context_;
  const absl::Duration silence_max_;
  mutable absl::Mutex mutex_;
  absl::Time due_ ABSL_GUARDED_BY(mutex_);
  bool stop_ ABSL_GUARDED_BY(mutex_) = false;
  bool stalled_ ABSL_GUARDED_BY(mutex_) = false;
  std::thread thread_;
};

}  // namespace weir::client
