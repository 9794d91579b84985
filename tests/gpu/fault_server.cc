// SPDX-License-Identifier: Apache-2.0
//
// weir-server on a GPU that traps before its fourth step.
#include <memory>

#include "engine/cuda_engine.h"
#include "server/process.h"
#include "store/memory_store.h"
#include "tests/gpu/trap.h"
#include "tests/support/forwarding_engine.h"

namespace weir::gpu {
namespace {

using engine::Engine;

class TrappingEngine final : public support::ForwardingEngine {
 public:
  using ForwardingEngine::ForwardingEngine;

  absl::StatusOr<engine::Ticket> Submit(const engine::Plan& plan) override {
    if (++steps_ == 4) LaunchTrap();
    return ForwardingEngine::Submit(plan);
  }

 private:
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
