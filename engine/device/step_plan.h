// SPDX-License-Identifier: Apache-2.0
//
// A step as a GPU runs it: its rows cut into passes that fit the workspace, and
// for each pass the arrays that kernels read.
//
// Threads: the step thread.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "engine/device/device_part.h"
#include "engine/device/staging.h"
#include "engine/engine.h"
#include "engine/kernels/cuda/sampling.h"
#include "engine/model/passes.h"
#include "engine/state/device_pool.h"

namespace weir::engine {

// A token whose score is wanted: row and index among the row's tokens.
struct WantedScore {
  size_t row = 0;
  size_t index = 0;
};

// One pass. Arrays beyond the batch's real rows are padding.
struct PassPlan {
  DeviceBatch batch;
  Staged<uint32_t> tokens;     // [batch.tokens]
  Staged<int32_t> row_starts;  // [batch.rows + 1]
  Staged<int32_t> slots;       // [batch.rows]
  Staged<uint32_t> consumed;   // [batch.rows]
  Staged<int32_t> last;        // [batch.rows]: a row's last token
  Staged<int32_t> plan_rows;   // [batch.rows]: its row in the plan
  // Of scores: GatherOutputs' sources, and the tokens.
  Staged<int32_t> sources;
  Staged<uint32_t> targets;
};

// The rows that draw, and what of.
struct DrawPlan {
  Staged<int32_t> sources;  // as PassPlan's
  Staged<DrawRow> rows;
  Staged<uint32_t> recent;  // of all rows
};

struct StepPlan {
  std::vector<PassPlan> passes;
  DrawPlan draws;
  // What of the results belongs to whom, in the order of the arrays.
  std::vector<WantedScore> wanted;  // of all passes
  std::vector<size_t> drawing;      // rows
};

class StepPlanner {
 public:
  // Both outlive this.
  StepPlanner(DevicePool* pool, Staging* staging, int64_t pass_tokens_max)
      : pool_(*pool), staging_(*staging), passes_(pass_tokens_max) {}

  // Plans the rows, and counts their tokens as consumed. REQUIRES: what they
  // need fits the staging.
  void Plan(std::span<const Row> rows, StepPlan& plan);
  // The same for a step of at most one token a row, as one pass of `padded`
  // rows: what it takes of the staging follows from these arguments alone, but
  // for the recent tokens, which come last.
  void PlanDecode(std::span<const Row> rows,
                  int32_t padded,
                  bool with_scores,
                  bool with_draws,
                  StepPlan& plan);
  // Rows of padding of about one length, of so many tokens together: all the
  // work of a pass, and no slot's state. REQUIRES: 1 <= rows <= tokens.
  void PlanPadding(int64_t rows, int64_t tokens, StepPlan& plan);

 private:
  void PlanPass(std::span<const Row> rows, StepPlan& plan);
  PassPlan TakePass(int64_t rows, int64_t tokens, int64_t wanted);
  void FillPass(std::span<const Row> rows, PassPlan& pass, StepPlan& plan);
  void WantScores(const Row& row,
                  const Piece& piece,
                  int64_t first_token,
                  PassPlan& pass,
                  StepPlan& plan);
  void PlanDraws(std::span<const Row> rows, int64_t padded, StepPlan& plan);

  DevicePool& pool_;
  Staging& staging_;
  Passes passes_;
  // The pass at hand.
  std::vector<Piece> pieces_;
  int64_t wanted_in_pass_ = 0;
  std::vector<uint32_t> distinct_;
};

// Bytes of staging that plans of so many rows, tokens and passes may take.
int64_t StagingBytes(int64_t rows, int64_t tokens, int64_t passes);

}  // namespace weir::engine
