// SPDX-License-Identifier: Apache-2.0
//
// The engine on the CPU with LibTorch. The only place that catches what the
// library throws.
//
// Threads: as engine.h. The library's threads work within Wait.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "engine/engine.h"
#include "engine/model/model.h"
#include "engine/plan_check.h"
#include "engine/state/state_pool.h"
#include "engine/step_runner.h"

namespace weir::engine {

class TorchEngine final : public Engine {
 public:
  struct Options {
    std::string model_dir;
    // The pool's size: a number of slots, or as many as fit the bytes.
    int32_t slots = 0;
    int64_t pool_bytes = 0;
    int32_t threads = 0;  // 0: as many as there are cores
    // The tokens that the workspace is sized for. A step of more is cut into
    // passes.
    int64_t step_tokens_max = 2048;
    bool allow_nonfinite = false;  // take weights that hold a NaN
  };

  // INVALID_ARGUMENT for options out of range; for a model folder that is
  // refused INVALID_ARGUMENT, NOT_FOUND or DATA_LOSS, the message beginning
  // with the word of the rule; RESOURCE_EXHAUSTED with the sizes if the
  // memory cannot be had.
  static absl::StatusOr<std::unique_ptr<TorchEngine>> Create(
      const Options& options);

  // What a model folder holds, and that Create would take it but for the values
  // of its weights. Takes no memory for them; errors as Create. Threads: any.
  static absl::StatusOr<ModelInfo> Inspect(const std::string& model_dir);

  const ModelInfo& model() const override { return model_->info(); }
  absl::StatusOr<Ticket> Submit(const Plan& plan) override;
  absl::StatusOr<StepResult> Wait(Ticket ticket) override;
  absl::StatusOr<int32_t> AcquireSlot() override;
  void ReleaseSlot(int32_t slot) override;
  absl::Status CopySlot(int32_t from, int32_t to) override;
  absl::Status SaveSlot(int32_t slot, std::span<std::byte> host) override;
  absl::Status LoadSlot(std::span<const std::byte> host, int32_t slot) override;
  int32_t slots() const override { return pool_->slots(); }
  int32_t slots_free() const override { return pool_->slots_free(); }

 private:
  TorchEngine(const Options& options, std::unique_ptr<Model> model);

  static absl::StatusOr<std::unique_ptr<TorchEngine>> CreateThrowing(
      const Options& options);
  // The library keeps its number of threads for each calling thread.
  void SetThreads();
  // "3 rows, 257 tokens".
  std::string StepShapes() const;

  const Options options_;
  const std::unique_ptr<Model> model_;
  std::unique_ptr<StatePool> pool_;
  std::unique_ptr<StepRunner> runner_;
  std::thread::id thread_;
  // The step that was submitted and not waited for; 0: none.
  Ticket open_ticket_ = 0;
  Ticket last_ticket_ = 0;
  std::vector<Row> rows_;
  std::unique_ptr<PlanCheck> plan_check_;
  bool failed_ = false;
};

}  // namespace weir::engine
