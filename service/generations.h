// SPDX-License-Identifier: Apache-2.0
//
// Generations: appends made by the server, a token at a time. A token is
// drawn, logged, sent, and consumed in the next row, the last one too.
//
// Threads: owned by the step thread.
#pragma once

#include <optional>
#include <vector>

#include "service/commits.h"
#include "service/seams.h"

namespace weir::service {

class Generations {
 public:
  Generations(Seams* seams, Commits* commits)
      : seams_(*seams), commits_(*commits) {}

  void Handle(GenerateCall call);

  // Whether it wants a row now: with Generation::token, and with a drawn token
  // unless it is about to end.
  bool WantsRow(const Session& session) const;
  bool WantsSample(const Session& session) const;
  // How to draw the next token. Lives as long as the generation.
  engine::Sampling SamplingOf(const Session& session) const;
  // Its row is about to run.
  void OnStart(Session& session);
  // Its row has run; REQUIRES: it is finite, and applied has moved.
  void OnRow(const SessionPtr& session,
             const std::optional<engine::Sampled>& sampled);
  // Goes on as far as it can without a row. The tokens of one that goes on are
  // held for SendHeld.
  void Advance(const SessionPtr& session);
  // Passes on the tokens that are held: while the device is at the next step,
  // which need not wait for it.
  void SendHeld();
  // Looks whether its caller has gone, or reads too slowly, and whether there
  // is room for another token.
  void Watch(const SessionPtr& session);
  // When Watch must be called at the latest.
  absl::Duration next_check(const Session& session) const;

 private:
  absl::Status Check(const GenerateRequest& request) const;
  absl::Status CheckState(const Session& session) const;
  // The record to go on with: a known one, or a new one.
  absl::StatusOr<std::shared_ptr<GenerationRecord>> Begin(
      Session& session, const GenerateRequest& request) const;
  absl::StatusOr<std::shared_ptr<GenerationRecord>> Resume(
      const Session& session,
      const GenerateRequest& request,
      std::shared_ptr<GenerationRecord> record) const;
  void Replay(const SessionPtr& session);
  void OnReplayed(const SessionPtr& session, const LogSlice& slice);
  // The logged tokens are sent: goes on, or ends.
  void AfterReplay(const SessionPtr& session);
  // Reads what the repetition penalty needs, then runs.
  void Look(const SessionPtr& session);
  // The drawn token is logged: sends it.
  void Deliver(const SessionPtr& session);
  void ReadFor(const SessionPtr& session, uint64_t position, uint64_t count);
  void OnRead(const SessionPtr& session,
              uint64_t ticket,
              absl::StatusOr<LogSlice> slice);
  // Behind what is held.
  void Send(Generation& generation, GenerateEvent event);
  // Ends once nothing is in hand.
  void Finish(const SessionPtr& session);
  void Fail(const SessionPtr& session, const absl::Status& error);
  bool Paused(const Generation& generation) const;
  absl::Status CheckRoom(const Generation& generation) const;

  Seams& seams_;
  Commits& commits_;
  std::vector<SessionPtr> holding_;  // sessions whose tokens may be held
};

}  // namespace weir::service
