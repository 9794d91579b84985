// SPDX-License-Identifier: Apache-2.0
//
// One step: from what waits to a plan, through the engine, and its results
// back to whom they belong.
//
// Threads: owned by the step thread.
#pragma once

#include <span>
#include <vector>

#include "service/appends.h"
#include "service/forks.h"
#include "service/generations.h"
#include "service/plan.h"
#include "service/seams.h"

namespace weir::service {

class Steps {
 public:
  Steps(Seams* seams, Appends* appends, Generations* generations)
      : seams_(*seams), appends_(*appends), generations_(*generations) {}

  // Whether a step would have a row.
  bool HasWork();
  // Runs one, if it would have a row. The error of a device that failed.
  absl::Status Run();

  // There is no work until something comes: nothing runs.
  void Rest();

  // Requests with a row in the last step, and those that had none when it ran.
  int64_t running() const { return running_; }
  int64_t waiting() const { return waiting_; }

 private:
  enum class Kind { kNone, kRebuild, kAppend, kGeneration };

  struct Work {
    SessionPtr session;
    Kind kind = Kind::kNone;
    std::vector<uint32_t> token;  // kGeneration: the one in hand
    std::span<const uint32_t> tokens;
  };

  static Work NextWork(const SessionPtr& session,
                       const Appends& appends,
                       const Generations& generations);
  engine::Row ToRow(const Work& work, int64_t tokens) const;
  void Apply(const Work& work, uint64_t tokens, engine::RowResult result);
  // Requests that want rows.
  int64_t Requests() const;

  Seams& seams_;
  Appends& appends_;
  Generations& generations_;
  PlanTurn turn_;
  int64_t running_ = 0;
  int64_t waiting_ = 0;
  StepStats stats_;
};

}  // namespace weir::service
