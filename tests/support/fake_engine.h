// SPDX-License-Identifier: Apache-2.0
//
// An engine whose state is a hash of the tokens that it has consumed, so that
// a lost, doubled or misplaced token shows in every later score and sample.
// It ends the process on a plan that breaks the rules of engine.h.
//
// Threads: any; the test looks on while the step thread runs.
#pragma once

#include <cstdint>
#include <mutex>
#include <span>
#include <vector>

#include "absl/functional/any_invocable.h"
#include "engine/engine.h"

namespace weir::support {

class FakeEngine final : public engine::Engine {
 public:
  struct Options {
    int32_t slots = 8;
    uint32_t vocabulary = 256;
    bool byte_tokens = true;
    uint64_t positions_max = 0;
  };
  enum class Point { kAcquireSlot, kSubmit, kWait, kCopy };

  explicit FakeEngine(Options options);

  // What it computes, for tests to compare with.
  static uint64_t Hash(std::span<const uint32_t> tokens);
  static float Score(uint64_t hash, uint32_t token);
  // Of each token after those before it; NaN for the first.
  static std::vector<float> Scores(std::span<const uint32_t> tokens);
  // What is drawn after `tokens`; `recent` counts if there is a penalty.
  engine::Sampled Sample(std::span<const uint32_t> tokens,
                         const engine::Sampling& sampling) const;

  // The n-th call from now on fails, n = 1, 2, ...; 0: none.
  void FailAt(Point point, int64_t n);
  // The next row of this slot, or the next row that feeds this token, leaves a
  // state that is not finite.
  void PoisonSlot(int32_t slot);
  void PoisonToken(uint32_t token);
  // Called in each Wait, before the step runs and outside the lock.
  void SetOnStep(absl::AnyInvocable<void(const engine::Plan&)> on_step);

  // Hash and consumed tokens of a held slot.
  uint64_t hash(int32_t slot) const;
  uint64_t consumed(int32_t slot) const;
  int64_t steps() const;
  // The slots that are held.
  std::vector<int32_t> held() const;

  const engine::ModelInfo& model() const override { return model_; }
  absl::StatusOr<engine::Ticket> Submit(const engine::Plan& plan) override;
  absl::StatusOr<engine::StepResult> Wait(engine::Ticket ticket) override;
  absl::StatusOr<int32_t> AcquireSlot() override;
  void ReleaseSlot(int32_t slot) override;
  absl::Status CopySlot(int32_t from, int32_t to) override;
  absl::Status SaveSlot(int32_t slot, std::span<std::byte> host) override;
  absl::Status LoadSlot(std::span<const std::byte> host, int32_t slot) override;
  int32_t slots() const override;
  int32_t slots_free() const override;

 private:
  struct State {
    uint64_t hash = 0;
    uint64_t consumed = 0;
  };
  struct Slot {
    bool held = false;
    bool lost = false;  // not finite: may only be released or loaded
    bool poisoned = false;
    State state;
  };

  bool Fails(Point point);
  void CheckPlan(const engine::Plan& plan) const;
  engine::RowResult RunRow(const engine::Row& row);
  engine::Sampled Draw(uint64_t hash, const engine::Sampling& sampling) const;

  const engine::ModelInfo model_;
  mutable std::mutex mutex_;
  std::vector<Slot> slots_;
  int64_t fail_at_[4] = {0, 0, 0, 0};
  int64_t poison_token_ = -1;
  const engine::Plan* plan_ = nullptr;
  engine::Ticket ticket_ = 0;
  int64_t steps_ = 0;
  absl::AnyInvocable<void(const engine::Plan&)> on_step_;
};

}  // namespace weir::support
