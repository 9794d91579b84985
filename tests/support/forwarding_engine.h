// SPDX-License-Identifier: Apache-2.0
//
// An engine that does what another does, for tests that watch or disturb some
// of its calls.
//
// Threads: as engine.h.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <utility>

#include "engine/engine.h"

namespace weir::support {

class ForwardingEngine : public engine::Engine {
 public:
  explicit ForwardingEngine(std::unique_ptr<engine::Engine> engine)
      : engine_(std::move(engine)) {}

  const engine::ModelInfo& model() const override { return engine_->model(); }
  absl::StatusOr<engine::Ticket> Submit(const engine::Plan& plan) override {
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
  const std::unique_ptr<engine::Engine> engine_;
};

}  // namespace weir::support
