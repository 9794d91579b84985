// SPDX-License-Identifier: Apache-2.0
//
// weir-server on a GPU that traps before its fourth step.
#include <memory>
#include <utility>

#include "engine/cuda_engine.h"
#include "server/process.h"
#include "store/memory_store.h"
#include "tests/gpu/trap.h"

namespace weir::gpu {
namespace {

using engine::Engine;

class TrappingEngine final : public Engine {
 public:
  explicit TrappingEngine(std::unique_ptr<Engine> engine)
      : engine_(std::move(engine)) {}

  const engine::ModelInfo& model() const override { return engine_->model(); }
  absl::StatusOr<engine::Ticket> Submit(const engine::Plan& plan) override {
    if (++steps_ == 4) LaunchTrap();
    return engine_->Submit(plan);
  }
  absl::StatusOr<engine::StepResult> Wait(engine::Ticket ticket) override {
    return engine_->Wait(ticket);
  }
  absl::StatusOr<int32_t> AcquireSlot() override {
    return engine_->AcquireSlot();
  }
  void ReleaseSlot(int32_t slot) override { engine_->ReleaseSlot(slot); }
  absl::Status CopySlot(int32_t from, int32_t to) override {
    return engine_->CopySlot(from, to);
  }
  absl::Status SaveSlot(int32_t slot, std::span<std::byte> host) override {
    return engine_->SaveSlot(slot, host);
  }
  absl::Status LoadSlot(std::span<const std::byte> host,
                        int32_t slot) override {
    return engine_->LoadSlot(host, slot);
  }
  int32_t slots() const override { return engine_->slots(); }
  int32_t slots_free() const override { return engine_->slots_free(); }

 private:
  const std::unique_ptr<Engine> engine_;
  int steps_ = 0;
};

absl::StatusOr<std::unique_ptr<Engine>> LoadEngine(
    const server::Config& config) {
  auto engine = engine::CreateCudaEngine(
      {.model_dir = config.model_dir, .slots = 16, .step_rows_max = 8});
  if (!engine.ok()) return engine.status();
  return std::make_unique<TrappingEngine>(*std::move(engine));
}

}  // namespace
}  // namespace weir::gpu

int main(int argc, char** argv) {
  const weir::server::ProcessParts parts = {
      .load_engine = weir::gpu::LoadEngine,
      .inspect_model =
          [](const weir::server::Config&) { return weir::engine::ModelInfo(); },
      .load_tokenizer = weir::text::LoadTokenizer,
      .make_store = [] { return std::make_unique<weir::store::MemoryStore>(); },
  };
  return weir::server::RunProcess(argc, argv, parts);
}
