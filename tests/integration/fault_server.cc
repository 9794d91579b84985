// SPDX-License-Identifier: Apache-2.0
//
// weir-server on a device that fails in its third step.
#include "server/process.h"
#include "store/memory_store.h"
#include "tests/support/fake_engine.h"

namespace weir::integration {
namespace {

absl::StatusOr<std::unique_ptr<engine::Engine>> LoadEngine(
    const server::Config&) {
  using support::FakeEngine;
  auto engine = std::make_unique<FakeEngine>(FakeEngine::Options());
  engine->FailAt(FakeEngine::Point::kWait, 3);
  return engine;
}

absl::StatusOr<engine::ModelInfo> InspectModel(const server::Config&) {
  return engine::ModelInfo();
}

}  // namespace
}  // namespace weir::integration

int main(int argc, char** argv) {
  const weir::server::ProcessParts parts = {
      .load_engine = weir::integration::LoadEngine,
      .inspect_model = weir::integration::InspectModel,
      .load_tokenizer = [](const std::string&,
                           uint32_t) { return weir::text::Tokenizer(); },
      .make_store = [] { return std::make_unique<weir::store::MemoryStore>(); },
  };
  return weir::server::RunProcess(argc, argv, parts);
}
