// SPDX-License-Identifier: Apache-2.0
//
// Runs steps on a GPU: one copy there, the passes, the draws, one copy back,
// all on one stream. Steps of at most one token a row are replayed from
// captured graphs, by their number of rows, padded.
//
// Threads: the step thread.
#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>
#include <map>
#include <memory>
#include <span>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "engine/device/device_model.h"
#include "engine/device/staging.h"
#include "engine/device/step_plan.h"
#include "engine/engine.h"
#include "engine/state/device_pool.h"

namespace weir::engine {

class DeviceStep {
 public:
  struct Options {
    int32_t rows_max = 0;    // of a step
    int64_t tokens_max = 0;  // of a step
    int64_t pass_tokens_max = 0;
    // Captured up to so many rows; 0: nothing is.
    int32_t graph_rows_max = 512;
  };

  // What Create takes of the card's memory, but for the graphs.
  static int64_t DeviceBytes(const DeviceModel& model, const Options& options);
  // Takes the memory, and captures the graphs. Model, pool and stream outlive
  // this. RESOURCE_EXHAUSTED, INTERNAL.
  static absl::StatusOr<std::unique_ptr<DeviceStep>> Create(
      DeviceModel* model,
      DevicePool* pool,
      cudaStream_t stream,
      const Options& options);
  ~DeviceStep();
  DeviceStep(const DeviceStep&) = delete;
  DeviceStep& operator=(const DeviceStep&) = delete;

  const Options& options() const { return options_; }

  // Puts a step on the stream. REQUIRES: the rows are sound and within the
  // options. INTERNAL.
  absl::Status Start(std::span<const Row> rows);
  // Waits for it. INTERNAL.
  absl::StatusOr<StepResult> Finish();

 private:
  // What a captured step does. Rows are padded to these.
  struct Shape {
    int32_t rows = 0;
    bool scores = false;
    bool draws = false;

    auto operator<=>(const Shape&) const = default;
  };
  // Bytes.
  struct Sizes {
    int64_t plan = 0;
    int64_t results = 0;
    int64_t gathered = 0;
    int64_t logits = 0;
  };
  struct Results {
    Staged<uint32_t> unfit;  // [plan rows]
    Staged<float> scores;    // by StepPlan::wanted
    // By StepPlan::drawing.
    Staged<uint32_t> tokens;
    Staged<float> log_probs;
    Staged<uint32_t> finite;
  };

  DeviceStep(DeviceModel* model,
             DevicePool* pool,
             cudaStream_t stream,
             const Options& options);

  static Sizes SizesOf(const DeviceModel& model, const Options& options);
  absl::Status TakeMemory();
  // Runs passes of many lengths once, so that the libraries take what they need
  // now and not from a client's first step.
  absl::Status WarmUp();
  absl::Status RunPadding(int64_t rows, int64_t tokens);
  absl::Status CaptureAll();
  absl::Status Capture(const Shape& shape);
  // The captured shape that takes these rows; none if there is no such.
  const Shape* ShapeFor(std::span<const Row> rows) const;
  void TakeResults(int64_t rows, int64_t scores, int64_t draws);
  absl::Status RunPlan();
  absl::Status RunPass(const PassPlan& pass, int64_t first_score);
  absl::Status ScorePass(const PassPlan& pass,
                         const void* outputs,
                         int64_t first_score);
  absl::Status RunDraws(const DrawPlan& draws);
  StepResult Collect() const;

  DeviceModel& model_;
  DevicePool& pool_;
  const cudaStream_t stream_;
  const Options options_;
  const int64_t block_rows_;  // rows of logits that are held at once
  Staging plan_memory_;
  Staging result_memory_;
  DeviceMemory gathered_;  // [padded block_rows, hidden]
  DeviceMemory logits_;    // [padded block_rows, vocabulary]
  std::unique_ptr<StepPlanner> planner_;
  std::map<Shape, cudaGraphExec_t> graphs_;
  // The step at hand.
  std::span<const Row> rows_;
  StepPlan plan_;
  Results results_;
};

}  // namespace weir::engine
