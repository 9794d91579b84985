// SPDX-License-Identifier: Apache-2.0
//
// What the step thread waits for: commands from clients, bounded in number and
// in tokens, and beside them the completions of the stores, which have
// reserved places and are never refused.
//
// A command counts against the bound until it is answered, not until it is
// taken: what waits further in weighs as much.
//
// Threads: any; Take and WaitFor from the step thread.
#pragma once

#include <cstdint>
#include <vector>

#include "absl/functional/any_invocable.h"
#include "service/call.h"
#include "service/mutex.h"

namespace weir::service {

class Queue {
 public:
  using Task = absl::AnyInvocable<void() &&>;

  // A promise of one completion. Its Post never fails and never waits.
  class Reservation {
   public:
    explicit Reservation(Queue* queue) : queue_(queue) {}
    // REQUIRES: the first time.
    void Post(Task task);

   private:
    Queue* queue_;
  };

  struct Batch {
    std::vector<Task> completions;  // these go first: they make room
    std::vector<Command> commands;
  };

  Queue(int32_t commands_max, int64_t tokens_max)
      : commands_max_(commands_max), tokens_max_(tokens_max) {}

  // Takes a command in, or answers it at once: QUEUE_FULL, SERVER_DRAINING.
  void Push(Command command);
  // Refuses commands from now on.
  void CloseDoor();
  // Makes the step thread look around.
  void Wake();

  Reservation Reserve();
  // What has come. Does not wait.
  Batch Take();
  std::vector<Task> TakeCompletions();
  // Waits for a command, a completion or Wake, at most for `limit`.
  void WaitFor(absl::Duration limit);

  // Commands that have not been answered.
  int64_t in_flight() const;

 private:
  friend class Permit;
  void Release(int64_t tokens);
  // An OK Status: taken.
  absl::Status TryPush(Command& command);

  // Constant after construction.
  const int32_t commands_max_;
  const int64_t tokens_max_;

  mutable Mutex mutex_;
  Condition condition_;
  std::vector<Command> commands_ ABSL_GUARDED_BY(mutex_);
  std::vector<Task> completions_ ABSL_GUARDED_BY(mutex_);
  size_t reserved_ ABSL_GUARDED_BY(mutex_) = 0;
  int64_t in_flight_ ABSL_GUARDED_BY(mutex_) = 0;
  int64_t tokens_ ABSL_GUARDED_BY(mutex_) = 0;
  bool woken_ ABSL_GUARDED_BY(mutex_) = false;
  bool closed_ ABSL_GUARDED_BY(mutex_) = false;
};

}  // namespace weir::service
