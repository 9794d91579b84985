// SPDX-License-Identifier: Apache-2.0
//
// What the service tells the metrics. A seam: the server counts, tests look.
//
// Threads: all from the step thread but OnRejected, which comes from any;
// calls are short and never wait.
#pragma once

#include <cstdint>

#include "absl/time/time.h"
#include "service/error.h"

namespace weir::service {

enum class CloseReason { kClient, kIdle, kError, kDrain };
enum class StepPhase { kPrefill, kDecode, kMixed };

// One step, when it has been completed.
struct StepStats {
  StepPhase phase = StepPhase::kMixed;
  int32_t rows = 0;
  int64_t tokens = 0;
  absl::Duration duration;  // Submit to the end of Wait
};

// What stands now, told after each step and each drained queue.
struct Levels {
  int32_t slots = 0;
  int32_t slots_free = 0;
  int64_t sessions = 0;
  // Requests with a row in the last step, and accepted ones without; none runs
  // when no row can be made.
  int64_t requests_running = 0;
  int64_t requests_waiting = 0;
  int64_t backlog_tokens = 0;  // accepted, and not yet in a state
  uint64_t log_bytes = 0;
};

class Observer {
 public:
  virtual ~Observer() = default;

  virtual void OnStep(const StepStats& stats) = 0;
  virtual void OnLevels(const Levels& levels) = 0;
  virtual void OnSessionOpened() = 0;
  // `position`: tokens that it had accepted.
  virtual void OnSessionClosed(CloseReason reason, uint64_t position) = 0;
  // Tokens of appends that a row has applied.
  virtual void OnAppended(uint64_t tokens) = 0;
  // The first row of an append or a generation finds so many tokens in the
  // state already: they cost nothing.
  virtual void OnReused(uint64_t tokens) = 0;
  // Tokens recognised as sent before.
  virtual void OnDuplicate(uint64_t tokens) = 0;
  // An append's reply, this long after it was pushed.
  virtual void OnAppendAck(absl::Duration since_push) = 0;
  // The first row of a request, this long after it was pushed.
  virtual void OnQueueTime(absl::Duration since_push) = 0;
  // One generated token. `since`: since the request was pushed for the first
  // one, since the token before for the others.
  virtual void OnGenerated(bool first, absl::Duration since) = 0;
  virtual void OnRejected(Reason reason) = 0;
};

// Counts nothing.
class NullObserver final : public Observer {
 public:
  void OnStep(const StepStats&) override {}
  void OnLevels(const Levels&) override {}
  void OnSessionOpened() override {}
  void OnSessionClosed(CloseReason, uint64_t) override {}
  void OnAppended(uint64_t) override {}
  void OnReused(uint64_t) override {}
  void OnDuplicate(uint64_t) override {}
  void OnAppendAck(absl::Duration) override {}
  void OnQueueTime(absl::Duration) override {}
  void OnGenerated(bool, absl::Duration) override {}
  void OnRejected(Reason) override {}
};

}  // namespace weir::service
