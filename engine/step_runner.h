// SPDX-License-Identifier: Apache-2.0
//
// Runs one step: cuts its rows into passes that fit the workspace, feeds them
// to the model, scores the tokens that were asked for and draws the next ones.
//
// The score of a row's first token comes from the output row that its slot
// holds, the others from the outputs within the row; so a document has the
// same scores however it is cut into rows.
//
// Threads: not thread-safe; the step thread owns it.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "engine/engine.h"
#include "engine/mixers/buffer.h"
#include "engine/model/model.h"
#include "engine/model/passes.h"
#include "engine/state/state_pool.h"

namespace weir::engine {

class StepRunner {
 public:
  // Both must outlive this.
  StepRunner(Model* model, StatePool* pool, int64_t pass_tokens_max);

  // RESOURCE_EXHAUSTED.
  absl::Status Allocate();

  // REQUIRES: the plan is valid, and Allocate was OK.
  StepResult Run(std::span<const Row> rows);

 private:
  // A token whose score is wanted, and the output row that predicts it.
  struct Wanted {
    size_t row = 0;
    int64_t index = 0;  // of the row's tokens
    const float* output = nullptr;
    uint32_t token = 0;
  };

  void RunPass(std::span<const Row> rows, StepResult& result);
  void CollectWanted(std::span<const Row> rows,
                     const float* outputs,
                     StepResult& result);
  void ScoreWanted(StepResult& result);
  void Draw(std::span<const Row> rows, StepResult& result);
  void DrawBlock(std::span<const Row> rows,
                 std::span<const size_t> drawing,
                 StepResult& result);
  // The last output row of the session in `slot`.
  float* Output(int32_t slot);

  Model* const model_;
  StatePool* const pool_;
  const int64_t hidden_;
  const int64_t vocabulary_;
  const int64_t block_rows_;  // rows of logits that are held at once
  Buffer gathered_;           // [block_rows, hidden]
  Buffer logits_;             // [block_rows, vocabulary]

  Passes passes_;
  // The pass at hand.
  std::vector<Piece> pieces_;
  std::vector<int32_t> row_starts_;
  std::vector<int32_t> slots_;
  std::vector<uint32_t> tokens_;
  std::vector<Wanted> wanted_;
  std::vector<uint32_t> targets_;
  std::vector<float> scores_;
  std::vector<size_t> drawing_;
};

}  // namespace weir::engine
