// SPDX-License-Identifier: Apache-2.0
//
// What a session may never see: another one's state. The service runs on the
// real engine, and every state that a step has touched is read back.
#include <gtest/gtest.h>

#include <bit>
#include <cmath>
#include <cstring>
#include <future>
#include <memory>
#include <random>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "engine/state/state_pool.h"
#include "engine/torch_engine.h"
#include "service/service.h"
#include "store/memory_store.h"
#include "tests/support/forwarding_engine.h"

namespace weir {
namespace {

constexpr int kSlots = 8;
constexpr uint64_t kSeed = 20261124;

std::string ModelFolder() {
  return std::string(WEIR_SOURCE_DIR) + "/tests/golden/fla_gated_deltanet";
}

// What WatchingEngine has found. Read after the service has stopped.
struct Findings {
  int64_t states = 0;
  int64_t marked_values = 0;
  int64_t other_nans = 0;
};

// The real engine; after each step it reads the rows' states and counts values
// that mark a freed slot, and any other NaN.
class WatchingEngine final : public support::ForwardingEngine {
 public:
  WatchingEngine(std::unique_ptr<engine::Engine> engine, Findings* findings)
      : ForwardingEngine(std::move(engine)), findings_(findings) {
    host_.resize(model().state_bytes);
  }

  absl::StatusOr<engine::Ticket> Submit(const engine::Plan& plan) override {
    slots_.clear();
    for (const engine::Row& row : plan.rows) slots_.push_back(row.slot);
    return ForwardingEngine::Submit(plan);
  }
  absl::StatusOr<engine::StepResult> Wait(engine::Ticket ticket) override {
    auto result = ForwardingEngine::Wait(ticket);
    for (int32_t slot : slots_) Look(slot);
    return result;
  }

 private:
  void Look(int32_t slot) {
    ASSERT_TRUE(SaveSlot(slot, host_).ok());
    ++findings_->states;
    for (size_t at = 0; at + 4 <= host_.size(); at += 4) {
      uint32_t bits = 0;
      std::memcpy(&bits, host_.data() + at, sizeof(bits));
      if (bits == engine::kFreedSlotBits) {
        ++findings_->marked_values;
      } else if (std::isnan(std::bit_cast<float>(bits))) {
        ++findings_->other_nans;
      }
    }
  }

  Findings* const findings_;
  std::vector<std::byte> host_;
  std::vector<int32_t> slots_;
};

// A service on the real engine with `slots` slots.
struct Bed {
  explicit Bed(int slots) {
    engine::TorchEngine::Options options;
    options.model_dir = ModelFolder();
    options.slots = slots;
    options.threads = 1;
    auto engine = engine::TorchEngine::Create(options);
    EXPECT_TRUE(engine.ok()) << engine.status();
    service::Service::Parts parts;
    parts.engine =
        std::make_unique<WatchingEngine>(*std::move(engine), &findings);
    parts.store = std::make_unique<store::MemoryStore>();
    parts.clock = &clock;
    parts.observer = &observer;
    auto created = service::Service::Create(std::move(parts), {});
    EXPECT_TRUE(created.ok()) << created.status();
    service = *std::move(created);
  }

  absl::StatusOr<service::AppendResult> Append(const std::string& id,
                                               uint64_t position,
                                               std::vector<uint32_t> tokens) {
    std::promise<absl::StatusOr<service::AppendResult>> promise;
    auto future = promise.get_future();
    service::AppendRequest request;
    request.session_id = id;
    request.expected_position = position;
    request.tokens = std::move(tokens);
    request.want_scores = true;
    service->Append(std::move(request), {}, [&promise](auto result) {
      promise.set_value(std::move(result));
    });
    return future.get();
  }

  void Open(const std::string& id) {
    std::promise<absl::Status> promise;
    auto future = promise.get_future();
    service::OpenRequest request;
    request.session_id = id;
    service->Open(std::move(request), {}, [&promise](auto result) {
      promise.set_value(result.status());
    });
    ASSERT_TRUE(future.get().ok()) << id;
  }

  // Whether the session was open.
  bool Close(const std::string& id) {
    std::promise<bool> promise;
    auto future = promise.get_future();
    service->Close({id}, {}, [&promise](auto result) {
      promise.set_value(result.ok() && result->closed);
    });
    return future.get();
  }

  Findings findings;
  service::SteadyClock clock;
  service::NullObserver observer;
  std::unique_ptr<service::Service> service;
};

// What came back wrong over one client's cycles.
struct Tally {
  int64_t refused = 0;
  int64_t nan_scores = 0;
  int64_t different_repeats = 0;
};

// Opens a session, feeds it, now and then feeds it the same again, closes it.
void Cycle(Bed& bed, int number, std::mt19937_64& random, Tally& tally) {
  const std::string id = "cycle-" + std::to_string(number);
  std::vector<uint32_t> tokens(1 + random() % 6);
  for (uint32_t& token : tokens) token = random() % 259;
  bed.Open(id);
  const auto first = bed.Append(id, 0, tokens);
  if (!first.ok()) {
    ++tally.refused;
    return;
  }
  for (size_t i = 1; i < first->scores.size(); ++i) {
    if (!std::isfinite(first->scores[i])) ++tally.nan_scores;
  }
  if (number % 16 == 0) {
    const auto again = bed.Append(id, 0, tokens);
    if (!again.ok() || !again->duplicate) {
      ++tally.refused;
      return;
    }
    for (size_t i = 1; i < first->scores.size(); ++i) {
      if (again->scores[i] != first->scores[i]) ++tally.different_repeats;
    }
  }
  if (!bed.Close(id)) ++tally.refused;
}

TEST(IsolationTest, NoFreedStateShowsUpOver100000Cycles) {
  constexpr int kCycles = 100'000;
  constexpr int kClients = kSlots;
  Bed bed(kSlots);
  std::vector<Tally> tallies(kClients);
  std::vector<std::thread> clients;
  for (int client = 0; client < kClients; ++client) {
    clients.emplace_back([&bed, &tallies, client] {
      std::mt19937_64 random(kSeed + client);
      for (int cycle = client; cycle < kCycles; cycle += kClients) {
        Cycle(bed, cycle, random, tallies[client]);
      }
    });
  }
  for (std::thread& client : clients) client.join();
  // What info() tells is of before the last answer; one more makes it fresh.
  EXPECT_FALSE(bed.Close("nobody"));
  EXPECT_EQ(bed.service->info().slots_free, kSlots);
  bed.service.reset();
  for (const Tally& tally : tallies) {
    EXPECT_EQ(tally.refused, 0);
    EXPECT_EQ(tally.nan_scores, 0);
    EXPECT_EQ(tally.different_repeats, 0);
  }
  EXPECT_GE(bed.findings.states, kCycles);
  EXPECT_EQ(bed.findings.marked_values, 0);
  EXPECT_EQ(bed.findings.other_nans, 0);
}

// A session's scores, fed in pieces of 1 to 9 tokens.
std::vector<float> Feed(Bed& bed, const std::string& id, uint64_t seed) {
  std::mt19937_64 random(seed);
  std::vector<float> scores;
  while (scores.size() < 200) {
    std::vector<uint32_t> tokens(1 + random() % 9);
    for (uint32_t& token : tokens) token = random() % 259;
    const auto result = bed.Append(id, scores.size(), tokens);
    if (!result.ok()) {
      ADD_FAILURE() << id << ": " << result.status();
      return scores;
    }
    scores.insert(scores.end(), result->scores.begin(), result->scores.end());
  }
  return scores;
}

TEST(IsolationTest, ASessionAloneGivesWhatItGivesAmong31Others) {
  constexpr int kSessions = 32;
  std::vector<float> alone;
  {
    Bed bed(1);
    bed.Open("session-0");
    alone = Feed(bed, "session-0", kSeed);
  }
  Bed bed(kSessions);
  std::vector<std::vector<float>> scores(kSessions);
  std::vector<std::thread> clients;
  for (int i = 0; i < kSessions; ++i) {
    bed.Open("session-" + std::to_string(i));
  }
  for (int i = 0; i < kSessions; ++i) {
    clients.emplace_back([&bed, &scores, i] {
      scores[i] = Feed(bed, "session-" + std::to_string(i), kSeed + i);
    });
  }
  for (std::thread& client : clients) client.join();
  ASSERT_EQ(scores[0].size(), alone.size());
  EXPECT_TRUE(std::isnan(alone[0]) && std::isnan(scores[0][0]));
  for (size_t i = 1; i < alone.size(); ++i) {
    ASSERT_NEAR(scores[0][i], alone[i], 1e-4) << "position " << i;
  }
}

}  // namespace
}  // namespace weir
