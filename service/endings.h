// SPDX-License-Identifier: Apache-2.0
//
// How calls end that cannot go on.
//
// Threads: owned by the step thread.
#pragma once

#include <cstdint>

#include "absl/status/status.h"
#include "service/seams.h"

namespace weir::service {

// Answers everything that waits for the session.
void EndAll(Session& session, const absl::Status& error);

// Answers the duplicates that wait for a commit of this level.
void EndUnsettled(Session& session,
                  Durability level,
                  const absl::Status& error);

// The tokens from `position` on could not be logged: the session's end goes
// back to it and what waited for them is answered. If the state has consumed
// some of them already, it is of no more use, and the session is quarantined.
void Recede(Session& session, uint64_t position, const absl::Status& error);

// The state is of no use after `last_good`. Everything that waits for tokens
// after it is answered; the state is not used again.
void Quarantine(Session& session,
                uint64_t last_good,
                const absl::Status& error);

// Closes a session: answers what waits for it and gives back what it holds.
void CloseSession(Seams& seams,
                  const SessionPtr& session,
                  CloseReason reason,
                  const absl::Status& error);

}  // namespace weir::service
