// SPDX-License-Identifier: Apache-2.0
//
// weir-server. The one place that knows which engine and which store there are.
#include <memory>
#include <string>
#include <thread>
#include <utility>

#include "base/status_macros.h"
#include "engine/cuda_engine.h"
#include "engine/self_test.h"
#include "engine/torch_engine.h"
#include "server/process.h"
#include "store/memory_store.h"
#include "text/tokenizer.h"

namespace weir::server {
namespace {

absl::StatusOr<std::unique_ptr<engine::Engine>> LoadCudaEngine(
    const Config& config) {
  return engine::CreateCudaEngine(
      {.model_dir = config.model_dir,
       .compute =
           config.fp32 ? engine::Compute::kFloat32 : engine::Compute::kBfloat16,
       .state = config.bf16_state ? engine::RestNumber::kBfloat16
                                  : engine::RestNumber::kFloat32,
       .state_form =
           config.ring ? engine::StateForm::kRing : engine::StateForm::kWrite,
       .slots = config.slots.value_or(0),
       .pool_bytes = config.slots ? 0 : static_cast<int64_t>(config.pool_bytes),
       .step_rows_max = config.limits.step_rows_max,
       .step_tokens_max = config.limits.step_tokens_max,
       .allow_nonfinite = config.allow_nonfinite});
}

absl::StatusOr<std::unique_ptr<engine::Engine>> LoadTorchEngine(
    const Config& config) {
  engine::TorchEngine::Options options;
  options.model_dir = config.model_dir;
  options.slots = config.slots.value_or(0);
  options.pool_bytes =
      config.slots ? 0 : static_cast<int64_t>(config.pool_bytes);
  options.threads = config.threads;
  options.step_tokens_max = config.limits.step_tokens_max;
  options.allow_nonfinite = config.allow_nonfinite;
  return engine::TorchEngine::Create(options);
}

absl::StatusOr<std::unique_ptr<engine::Engine>> LoadEngine(
    const Config& config) {
  WEIR_ASSIGN_OR_RETURN(
      std::unique_ptr<engine::Engine> engine,
      config.cuda ? LoadCudaEngine(config) : LoadTorchEngine(config));
  // On a thread of its own: the library's threads belong to the one that calls
  // it, and go with it.
  absl::Status computes;
  std::thread([&] {
    computes = engine::SelfTest(*engine, config.model_dir);
  }).join();
  WEIR_RETURN_IF_ERROR(computes);
  return engine;
}

absl::StatusOr<engine::ModelInfo> InspectModel(const Config& config) {
  if (config.cuda) WEIR_RETURN_IF_ERROR(engine::CheckCudaBuild());
  return engine::TorchEngine::Inspect(config.model_dir);
}

}  // namespace
}  // namespace weir::server

int main(int argc, char** argv) {
  const weir::server::ProcessParts parts = {
      .load_engine = weir::server::LoadEngine,
      .inspect_model = weir::server::InspectModel,
      .load_tokenizer = weir::text::LoadTokenizer,
      .make_store = [] { return std::make_unique<weir::store::MemoryStore>(); },
  };
  return weir::server::RunProcess(argc, argv, parts);
}
