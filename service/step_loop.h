// SPDX-License-Identifier: Apache-2.0
//
// The one thread of a device, and all that it owns: sessions, queue, engine.
// Between two steps it takes what has come, accepts it in order, and answers
// what is done.
//
// Threads: Push, Wake, BeginDrain, AwaitDrained, info, health and model from
// any; RunOnce from one thread, which tests may be in place of Start's.
#pragma once

#include <memory>
#include <thread>
#include <utility>

#include "service/appends.h"
#include "service/commits.h"
#include "service/forks.h"
#include "service/generations.h"
#include "service/mutex.h"
#include "service/seams.h"
#include "service/service.h"
#include "service/steps.h"

namespace weir::service {

class StepLoop {
 public:
  StepLoop(Service::Parts parts, Limits limits);
  // Ends the thread, and answers what is left with SERVER_DRAINING.
  // NOLINTNEXTLINE(bugprone-exception-escape): as in the source.
  ~StepLoop();

  // Starts the step thread. Not to be mixed with RunOnce.
  void Start();
  // Takes what has come, runs at most one step, and answers. True if another
  // call has something to do at once.
  bool RunOnce();
  // When RunOnce must be called though nothing comes; by Clock.
  absl::Duration NextTimer() const;

  // REQUIRES: made with now() and observer().
  void Push(Command command) { queue_.Push(std::move(command)); }
  void Wake() { queue_.Wake(); }
  void BeginDrain();
  // True when all has been answered, within `limit`.
  bool AwaitDrained(absl::Duration limit);

  absl::Duration now() const { return parts_.clock->Now(); }
  Observer* observer() const { return parts_.observer; }
  const engine::ModelInfo& model() const { return parts_.engine->model(); }
  const Limits& limits() const { return seams_.limits; }
  ServiceInfo info() const;
  absl::Status health() const;

 private:
  void Run();
  void Dispatch(Command command);
  void Handle(OpenCall call);
  void Handle(GetCall call);
  void Handle(ListCall call);
  void Handle(CloseCall call);
  void Handle(AppendCall call) { appends_.Handle(std::move(call)); }
  void Handle(GenerateCall call) { generations_.Handle(std::move(call)); }
  void Handle(ForkCall call) { forks_.Handle(std::move(call)); }
  absl::StatusOr<OpenResult> Open(const OpenRequest& request);
  absl::StatusOr<SessionPtr> Create(const OpenRequest& request);
  // Lets everything go on that can without a step.
  void Settle();
  void Watch();
  // Whether a session may have rows, and how many tokens, has changed.
  void UpdateActive(const SessionPtr& session);
  void Fault(const absl::Status& cause);
  void Publish();
  // Answers everything and closes the sessions.
  void End();

  // Destroyed in the reverse order: the store last calls back while the queue
  // is still there.
  Queue queue_;
  Service::Parts parts_;

  // Owned by the step thread.
  Seams seams_;
  Commits commits_;
  Appends appends_;
  Generations generations_;
  Forks forks_;
  Steps steps_;

  mutable Mutex mutex_;
  Condition condition_;
  bool stopping_ ABSL_GUARDED_BY(mutex_) = false;
  bool draining_ ABSL_GUARDED_BY(mutex_) = false;
  bool drained_ ABSL_GUARDED_BY(mutex_) = false;
  ServiceInfo info_ ABSL_GUARDED_BY(mutex_);
  std::string fault_ ABSL_GUARDED_BY(mutex_);  // empty: none

  std::thread thread_;
};

}  // namespace weir::service
