// SPDX-License-Identifier: Apache-2.0
//
// Forks: a copy of the state where it stands, or a state rebuilt from the log
// for an earlier position.
//
// Threads: owned by the step thread.
#pragma once

#include <cstdint>
#include <span>

#include "service/seams.h"

namespace weir::service {

class Forks {
 public:
  explicit Forks(Seams* seams) : seams_(*seams) {}

  void Handle(ForkCall call);
  // Makes the forks that can be made; reads on for a rebuild.
  void Advance(const SessionPtr& session);

  // How many tokens the session may consume before a fork must be made of it.
  static uint64_t RoomFor(const Session& session);

  // Logged tokens that a rebuild can feed to the state now.
  static std::span<const uint32_t> Waiting(const Session& session);

 private:
  absl::Status Check(const ForkRequest& request) const;
  // Answers, or joins, an earlier fork of the same request_id. False if there
  // is none.
  bool Repeats(Session& session, ForkCall& call);
  absl::StatusOr<PendingFork> Prepare(const Session& session,
                                      const ForkRequest& request) const;
  void Make(Session& session, PendingFork fork);
  absl::StatusOr<SessionPtr> Copy(Session& session, const PendingFork& fork);
  void AdvanceRebuild(const SessionPtr& session);
  void OnChunk(const SessionPtr& session, absl::StatusOr<LogSlice> slice);

  Seams& seams_;
};

}  // namespace weir::service
