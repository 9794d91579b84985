// SPDX-License-Identifier: Apache-2.0
//
// Appends, from the queue to their replies: exactly once, by position.
//
//   arriving    waits for the one before it to be decided
//   comparing   behind the end: the log is read and compared
//   to_apply    accepted: logged, and waiting for rows
//   settling    in the state; waits for its commit
//   reading     the scores of the part that was a duplicate are read
//
// Threads: owned by the step thread.
#pragma once

#include <memory>
#include <span>

#include "service/accept.h"
#include "service/commits.h"
#include "service/seams.h"

namespace weir::service {

class Appends {
 public:
  Appends(Seams* seams, Commits* commits)
      : seams_(*seams), commits_(*commits) {}

  void Handle(AppendCall call);
  // The tokens that the session's first waiting append has left. REQUIRES:
  // there is one.
  std::span<const uint32_t> Waiting(const Session& session) const;
  bool WantsScores(const Session& session) const;
  // A row of that append has been fed to the state; REQUIRES: it is finite,
  // and applied has moved.
  void OnRow(const SessionPtr& session,
             uint64_t tokens,
             std::vector<float> scores);
  // The append's first row is about to run.
  void OnStart(Session& session);
  // Answers what can be answered.
  void Advance(const SessionPtr& session);

 private:
  using AppendPtr = std::unique_ptr<PendingAppend>;

  absl::Status Check(const AppendCall& call) const;
  // An error, or what to do with it now.
  absl::StatusOr<Judgement> Judge(const Session& session,
                                  const AppendCall& call) const;
  // Decides what has arrived, up to one that must be compared first.
  void DecideArrived(const SessionPtr& session);
  // Decides one: compares it, accepts it, or answers it.
  void Decide(const SessionPtr& session, AppendPtr append);
  // Tokens that are fed until the append is done, by what waits now.
  int64_t TokensUntilDone(const Session& session, int64_t own) const;
  // DEADLINE_IN_QUEUE if it cannot be done in time.
  absl::Status CheckDeadline(const Session& session,
                             const PendingAppend& append);
  void Accept(const SessionPtr& session, AppendPtr append);
  void Compare(const SessionPtr& session, AppendPtr append, uint64_t overlap);
  void OnCompared(const SessionPtr& session, absl::StatusOr<LogSlice> slice);
  bool Settled(const Session& session, const PendingAppend& append) const;
  void ReadScores(const SessionPtr& session, AppendPtr append);
  void Reply(Session& session, AppendPtr append, std::vector<float> scores);

  Seams& seams_;
  Commits& commits_;
};

}  // namespace weir::service
