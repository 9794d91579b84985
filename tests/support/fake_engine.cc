// SPDX-License-Identifier: Apache-2.0
#include "tests/support/fake_engine.h"

#include <cstring>
#include <limits>
#include <set>

#include "base/check.h"

namespace weir::support {
namespace {

using engine::Plan;
using engine::Row;
using engine::RowResult;
using engine::Sampled;
using engine::Sampling;
using engine::StepResult;
using engine::Ticket;

// The finaliser of SplitMix64.
uint64_t Mix(uint64_t x) {
  x += 0x9e3779b97f4a7c15u;
  x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9u;
  x = (x ^ (x >> 27)) * 0x94d049bb133111ebu;
  return x ^ (x >> 31);
}

uint64_t Consume(uint64_t hash, uint32_t token) {
  return Mix(hash ^ (uint64_t{token} << 1 | 1));
}

engine::ModelInfo Model(const FakeEngine::Options& options) {
  engine::ModelInfo model;
  model.family = "fake";
  model.dtype = "u64";
  model.parameters = 1;
  model.vocabulary = options.vocabulary;
  model.layers = 1;
  model.state_bytes = 2 * sizeof(uint64_t);
  model.byte_tokens = options.byte_tokens;
  model.positions_max = options.positions_max;
  return model;
}

}  // namespace

FakeEngine::FakeEngine(Options options)
    : model_(Model(options)), slots_(options.slots) {}

uint64_t FakeEngine::Hash(std::span<const uint32_t> tokens) {
  uint64_t hash = 0;
  for (const uint32_t token : tokens) hash = Consume(hash, token);
  return hash;
}

float FakeEngine::Score(uint64_t hash, uint32_t token) {
  // In (-8, 0), exact in fp32.
  const uint64_t bits = Mix(hash + 77) ^ Mix(token);
  return -static_cast<float>(1 + (bits & 0xfff)) / 1024.0f;
}

std::vector<float> FakeEngine::Scores(std::span<const uint32_t> tokens) {
  std::vector<float> scores;
  uint64_t hash = 0;
  for (const uint32_t token : tokens) {
    scores.push_back(scores.empty() ? std::numeric_limits<float>::quiet_NaN()
                                    : Score(hash, token));
    hash = Consume(hash, token);
  }
  return scores;
}

Sampled FakeEngine::Draw(uint64_t hash, const Sampling& sampling) const {
  uint64_t key = Mix(hash);
  if (sampling.temperature > 0) {
    key = Mix(key ^ Mix(sampling.seed) ^ Mix(sampling.position + 13));
  }
  if (sampling.repetition_penalty != 1) key ^= Hash(sampling.recent);
  const auto token = static_cast<uint32_t>(key % model_.vocabulary);
  return {.token = token, .log_prob = Score(hash, token)};
}

Sampled FakeEngine::Sample(std::span<const uint32_t> tokens,
                           const Sampling& sampling) const {
  return Draw(Hash(tokens), sampling);
}

void FakeEngine::FailAt(Point point, int64_t n) {
  const std::lock_guard lock(mutex_);
  fail_at_[static_cast<size_t>(point)] = n;
}

void FakeEngine::PoisonSlot(int32_t slot) {
  const std::lock_guard lock(mutex_);
  slots_.at(slot).poisoned = true;
}

void FakeEngine::PoisonToken(uint32_t token) {
  const std::lock_guard lock(mutex_);
  poison_token_ = token;
}

void FakeEngine::SetOnStep(absl::AnyInvocable<void(const Plan&)> on_step) {
  const std::lock_guard lock(mutex_);
  on_step_ = std::move(on_step);
}

uint64_t FakeEngine::hash(int32_t slot) const {
  const std::lock_guard lock(mutex_);
  WEIR_CHECK(slots_.at(slot).held);
  return slots_[slot].state.hash;
}

uint64_t FakeEngine::consumed(int32_t slot) const {
  const std::lock_guard lock(mutex_);
  WEIR_CHECK(slots_.at(slot).held);
  return slots_[slot].state.consumed;
}

int64_t FakeEngine::steps() const {
  const std::lock_guard lock(mutex_);
  return steps_;
}

std::vector<int32_t> FakeEngine::held() const {
  const std::lock_guard lock(mutex_);
  std::vector<int32_t> held;
  for (size_t i = 0; i < slots_.size(); ++i) {
    if (slots_[i].held) held.push_back(static_cast<int32_t>(i));
  }
  return held;
}

bool FakeEngine::Fails(Point point) {
  int64_t& n = fail_at_[static_cast<size_t>(point)];
  return n > 0 && --n == 0;
}

void FakeEngine::CheckPlan(const Plan& plan) const {
  std::set<int32_t> slots;
  WEIR_CHECK(!plan.rows.empty());
  for (const Row& row : plan.rows) {
    WEIR_CHECK(slots.insert(row.slot).second);
    const Slot& slot = slots_.at(row.slot);
    WEIR_CHECK(slot.held && !slot.lost);
    WEIR_CHECK(row.first == (slot.state.consumed == 0));
    WEIR_CHECK(!row.tokens.empty() || row.sample.has_value());
    for (const uint32_t token : row.tokens) {
      WEIR_CHECK(token < model_.vocabulary);
    }
    if (!row.sample.has_value()) continue;
    const uint64_t consumed = slot.state.consumed + row.tokens.size();
    WEIR_CHECK(consumed > 0 && row.sample->position == consumed);
    WEIR_CHECK(row.sample->recent.size() <= 1024);
  }
}

absl::StatusOr<Ticket> FakeEngine::Submit(const Plan& plan) {
  const std::lock_guard lock(mutex_);
  WEIR_CHECK(plan_ == nullptr);
  CheckPlan(plan);
  if (Fails(Point::kSubmit)) return absl::InternalError("submit failed");
  plan_ = &plan;
  return ++ticket_;
}

absl::StatusOr<StepResult> FakeEngine::Wait(Ticket ticket) {
  WEIR_CHECK(plan_ != nullptr && ticket == ticket_);
  if (on_step_) on_step_(*plan_);
  const std::lock_guard lock(mutex_);
  const Plan& plan = *std::exchange(plan_, nullptr);
  if (Fails(Point::kWait)) return absl::InternalError("the device is gone");
  ++steps_;
  StepResult result;
  for (const Row& row : plan.rows) result.rows.push_back(RunRow(row));
  return result;
}

RowResult FakeEngine::RunRow(const Row& row) {
  Slot& slot = slots_[row.slot];
  RowResult result;
  bool poisoned = std::exchange(slot.poisoned, false);
  for (const uint32_t token : row.tokens) {
    poisoned = poisoned || token == poison_token_;
    if (row.want_scores) {
      result.scores.push_back(slot.state.consumed == 0
                                  ? std::numeric_limits<float>::quiet_NaN()
                                  : Score(slot.state.hash, token));
    }
    slot.state.hash = Consume(slot.state.hash, token);
    ++slot.state.consumed;
  }
  if (row.sample.has_value()) {
    result.sampled = Draw(slot.state.hash, *row.sample);
  }
  if (poisoned) {
    poison_token_ = -1;
    slot.lost = true;
    result.finite = false;
  }
  return result;
}

absl::StatusOr<int32_t> FakeEngine::AcquireSlot() {
  const std::lock_guard lock(mutex_);
  if (Fails(Point::kAcquireSlot)) {
    return absl::ResourceExhaustedError("made to fail");
  }
  for (size_t i = 0; i < slots_.size(); ++i) {
    if (slots_[i].held) continue;
    slots_[i] = Slot{};
    slots_[i].held = true;
    return static_cast<int32_t>(i);
  }
  return absl::ResourceExhaustedError("no slot is free");
}

void FakeEngine::ReleaseSlot(int32_t slot) {
  const std::lock_guard lock(mutex_);
  WEIR_CHECK(slots_.at(slot).held && plan_ == nullptr);
  slots_[slot].held = false;
}

absl::Status FakeEngine::CopySlot(int32_t from, int32_t to) {
  const std::lock_guard lock(mutex_);
  if (Fails(Point::kCopy)) return absl::InternalError("the copy failed");
  WEIR_CHECK(slots_.at(from).held && slots_.at(to).held && plan_ == nullptr);
  WEIR_CHECK(from != to && !slots_[from].lost);
  slots_[to].state = slots_[from].state;
  return absl::OkStatus();
}

absl::Status FakeEngine::SaveSlot(int32_t slot, std::span<std::byte> host) {
  const std::lock_guard lock(mutex_);
  WEIR_CHECK(slots_.at(slot).held);
  if (host.size() != sizeof(State)) {
    return absl::InvalidArgumentError("a state has another size");
  }
  std::memcpy(host.data(), &slots_[slot].state, sizeof(State));
  return absl::OkStatus();
}

absl::Status FakeEngine::LoadSlot(std::span<const std::byte> host,
                                  int32_t slot) {
  const std::lock_guard lock(mutex_);
  WEIR_CHECK(slots_.at(slot).held);
  if (host.size() != sizeof(State)) {
    return absl::InvalidArgumentError("a state has another size");
  }
  std::memcpy(&slots_[slot].state, host.data(), sizeof(State));
  slots_[slot].lost = false;
  return absl::OkStatus();
}

int32_t FakeEngine::slots() const {
  return static_cast<int32_t>(slots_.size());
}

int32_t FakeEngine::slots_free() const {
  const std::lock_guard lock(mutex_);
  int32_t free = 0;
  for (const Slot& slot : slots_) free += slot.held ? 0 : 1;
  return free;
}

}  // namespace weir::support
