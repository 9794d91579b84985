// SPDX-License-Identifier: Apache-2.0
//
// What the parts of the step loop work with.
//
// Threads: owned by the step thread.
#pragma once

#include "absl/functional/any_invocable.h"
#include "engine/engine.h"
#include "service/clock.h"
#include "service/observer.h"
#include "service/pace.h"
#include "service/queue.h"
#include "service/session_table.h"
#include "service/store.h"

namespace weir::service {

struct Seams {
  engine::Engine* engine = nullptr;
  Store* store = nullptr;
  const Clock* clock = nullptr;
  Observer* observer = nullptr;
  Limits limits;
  Queue* queue = nullptr;
  SessionTable table;
  Pace pace{Limits().step_tokens_max};
  bool draining = false;
  // The fault that ended it all, or OK.
  absl::Status fault;
  // What the engine said outside of a step, if it failed there: a fault as soon
  // as the step loop looks.
  absl::Status engine_failure;
};

// Reads a stretch of a session's log; `then` runs on the step thread, unless
// the session has been closed by then. REQUIRES: the calls that wait for it
// are held by the session.
void ReadLog(Seams& seams,
             const SessionPtr& session,
             uint64_t position,
             uint64_t count,
             absl::AnyInvocable<void(absl::StatusOr<LogSlice>) &&> then);

// What clients see of a session.
SessionInfo InfoOf(const Session& session, absl::Duration now);

// The level's place in Session::requested and Session::done.
inline size_t LevelIndex(Durability level) {
  return static_cast<size_t>(level);
}

// Errors that name a session's positions.
absl::Status NotFoundError();
// The same, or SESSION_EXPIRED if it is known to have been left alone too long.
absl::Status NotFoundError(const Seams& seams, const std::string& session_id);
absl::Status QuarantinedError(const Session& session);
absl::Status PositionError(Reason reason,
                           const Session& session,
                           uint64_t expected);
// SESSION_LENGTH, with the length.
absl::Status LengthError(const Seams& seams,
                         const Session& session,
                         uint64_t expected);
absl::Status StoreError(const absl::Status& cause);
absl::Status DrainingError();
// DURABILITY_UNAVAILABLE if the store cannot reach the level.
absl::Status CheckDurability(const Store& store, Durability level);

// A slot for a session. STATE_POOL_EXHAUSTED if there is none.
absl::StatusOr<int32_t> AcquireSlot(Seams& seams);

}  // namespace weir::service
