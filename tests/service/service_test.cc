// SPDX-License-Identifier: Apache-2.0
//
// The service with its own thread and callers on others. Under
// ThreadSanitizer this is the proof that nothing is shared unguarded.
#include "service/service.h"

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <future>
#include <mutex>
#include <random>
#include <thread>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "store/memory_store.h"
#include "tests/support/counting_observer.h"
#include "tests/support/fake_clock.h"
#include "tests/support/fake_engine.h"

namespace weir::service {
namespace {

using support::CountingObserver;
using support::FakeEngine;
using Tokens = std::vector<uint32_t>;

// A memory store that answers commits and reads on a thread of its own, in
// order and late.
class ThreadedStore final : public Store {
 public:
  ThreadedStore() : thread_([this] { Run(); }) {}
  ~ThreadedStore() override {
    {
      const std::lock_guard lock(mutex_);
      ending_ = true;
    }
    condition_.notify_one();
    thread_.join();
  }

  bool Supports(Durability level) const override {
    return level != Durability::kShared;
  }
  absl::Status Create(const std::string& id) override {
    return memory_.Create(id);
  }
  absl::Status Fork(const std::string& from,
                    uint64_t position,
                    const std::string& to) override {
    return memory_.Fork(from, position, to);
  }
  void Erase(const std::string& id) override { memory_.Erase(id); }
  void Commit(std::vector<LogRecord> records, Durability, Done done) override {
    memory_.Commit(
        std::move(records),
        Durability::kApplied,
        [&](const absl::Status& status) {
          Later([done = std::move(done), code = status.code()]() mutable {
            std::move(done)(absl::Status(code, ""));
          });
        });
  }
  void PutScores(ScoreRecord record) override {
    memory_.PutScores(std::move(record));
  }
  void Read(const std::string& id,
            uint64_t position,
            uint64_t count,
            ReadDone done) override {
    memory_.Read(id, position, count, [&](absl::StatusOr<LogSlice> slice) {
      Later([done = std::move(done), slice = std::move(slice)]() mutable {
        std::move(done)(std::move(slice));
      });
    });
  }
  uint64_t MemoryBytes() const override { return memory_.MemoryBytes(); }

 private:
  void Later(absl::AnyInvocable<void() &&> answer) {
    {
      const std::lock_guard lock(mutex_);
      answers_.push_back(std::move(answer));
    }
    condition_.notify_one();
  }
  void Run() {
    std::unique_lock lock(mutex_);
    while (true) {
      condition_.wait(lock, [&] { return ending_ || !answers_.empty(); });
      if (answers_.empty()) return;
      auto answers = std::exchange(answers_, {});
      lock.unlock();
      for (auto& answer : answers) std::move(answer)();
      lock.lock();
    }
  }

  store::MemoryStore memory_;
  std::mutex mutex_;
  std::condition_variable condition_;
  std::vector<absl::AnyInvocable<void() &&>> answers_;
  bool ending_ = false;
  std::thread thread_;
};

// Waits for one answer; a test that hangs here is ended by its time limit.
template <typename Result>
class Waiter {
 public:
  Waiter() : future_(promise_->get_future()) {}
  Completion<Result> Sink() {
    return [promise = promise_](absl::StatusOr<Result> result) {
      promise->set_value(std::move(result));
    };
  }
  absl::StatusOr<Result> Get() { return future_.get(); }

 private:
  std::shared_ptr<std::promise<absl::StatusOr<Result>>> promise_ =
      std::make_shared<std::promise<absl::StatusOr<Result>>>();
  std::future<absl::StatusOr<Result>> future_;
};

// Says when the first session has been closed.
class ClosingObserver final : public CountingObserver {
 public:
  void OnSessionClosed(CloseReason reason, uint64_t position) override {
    CountingObserver::OnSessionClosed(reason, position);
    if (closed.size() == 1 && closed.begin()->second == 1) {
      first_closed.set_value();
    }
  }
  std::promise<void> first_closed;
};

class ServiceTest : public testing::Test {
 protected:
  void Start(Limits limits, const Clock* clock = nullptr) {
    auto engine =
        std::make_unique<FakeEngine>(FakeEngine::Options{.slots = 16});
    engine_ = engine.get();
    Service::Parts parts;
    parts.engine = std::move(engine);
    parts.store = std::make_unique<ThreadedStore>();
    parts.clock = clock == nullptr ? &clock_ : clock;
    parts.observer = &observer_;
    auto service = Service::Create(std::move(parts), limits);
    ASSERT_TRUE(service.ok());
    service_ = *std::move(service);
  }
  absl::StatusOr<OpenResult> Open(const std::string& id) {
    Waiter<OpenResult> waiter;
    service_->Open({.session_id = id}, {}, waiter.Sink());
    return waiter.Get();
  }
  absl::StatusOr<AppendResult> Append(const std::string& id,
                                      uint64_t position,
                                      Tokens tokens,
                                      Durability level = Durability::kApplied) {
    Waiter<AppendResult> waiter;
    AppendRequest request;
    request.session_id = id;
    request.expected_position = position;
    request.tokens = std::move(tokens);
    request.want_scores = true;
    request.durability = level;
    service_->Append(std::move(request), {}, waiter.Sink());
    return waiter.Get();
  }
  static GenerateRequest Generation(const std::string& id, uint32_t count) {
    GenerateRequest request;
    request.session_id = id;
    request.max_tokens = count;
    return request;
  }

  SteadyClock clock_;
  ClosingObserver observer_;
  FakeEngine* engine_ = nullptr;  // owned by service_
  std::unique_ptr<Service> service_;
};

TEST_F(ServiceTest, AnswersOnItsOwn) {
  Start({});
  ASSERT_TRUE(Open("s").ok());
  const auto append = Append("s", 0, {1, 2, 3});

  ASSERT_TRUE(append.ok());
  EXPECT_EQ(append->scores[2], FakeEngine::Scores(Tokens{1, 2, 3})[2]);
  EXPECT_EQ(service_->model().vocabulary, 256u);
  EXPECT_EQ(service_->limits().queue_max, 4096);
  EXPECT_TRUE(service_->health().ok());
}

TEST_F(ServiceTest, LimitsThatAreNotPositiveAreRefusedByName) {
  for (const auto& [limits, name] : std::vector<std::pair<Limits, std::string>>{
           {{.queue_max = 0}, "queue_max"},
           {{.step_tokens_max = -1}, "step_tokens_max"},
           {{.log_bytes_max = 0}, "log_bytes_max"},
           {{.slow_consumer_after = absl::ZeroDuration()},
            "slow_consumer_after"}}) {
    Service::Parts parts;
    parts.engine = std::make_unique<FakeEngine>(FakeEngine::Options{});
    parts.store = std::make_unique<store::MemoryStore>();
    parts.clock = &clock_;
    parts.observer = &observer_;
    const auto service = Service::Create(std::move(parts), limits);
    ASSERT_FALSE(service.ok());
    EXPECT_EQ(service.status().code(), absl::StatusCode::kInvalidArgument);
    EXPECT_NE(std::string(service.status().message()).find(name),
              std::string::npos);
  }
}

TEST_F(ServiceTest, ManyThreadsAndASlowStoreLoseNothing) {
  Start({.queue_max = 64, .step_tokens_max = 40});
  constexpr int kThreads = 8;
  std::atomic<int> refused = 0;
  std::vector<std::thread> clients;
  clients.reserve(kThreads);
  for (int t = 0; t < kThreads; ++t) {
    clients.emplace_back([&, t] {
      std::mt19937 random(t);
      const std::string id = "s" + std::to_string(t);
      ASSERT_TRUE(Open(id).ok());
      Tokens all;
      for (int i = 0; i < 120; ++i) {
        Tokens tokens(1 + random() % 60);
        for (uint32_t& token : tokens) token = random() % 256;
        const Durability level =
            random() % 4 == 0 ? Durability::kLocal : Durability::kApplied;
        const auto first = Append(id, all.size(), tokens, level);
        if (!first.ok()) {
          ASSERT_EQ(ReasonOf(first.status()), Reason::kQueueFull);
          ++refused;
          continue;
        }
        ASSERT_FALSE(first->duplicate);
        if (level == Durability::kLocal) {
          ASSERT_EQ(first->local_position, all.size() + tokens.size());
        }
        if (random() % 3 == 0) {
          const auto again = Append(id, all.size(), tokens);
          ASSERT_TRUE(again.ok() && again->duplicate);
          ASSERT_EQ(again->scores.back(), first->scores.back());
        }
        all.insert(all.end(), tokens.begin(), tokens.end());
        ASSERT_EQ(first->scores.back(), FakeEngine::Scores(all).back());
      }
      Waiter<SessionInfo> info;
      service_->Get({.session_id = id}, {}, info.Sink());
      const auto read = info.Get();
      ASSERT_TRUE(read.ok());
      ASSERT_EQ(read->position, all.size());
      ASSERT_EQ(read->applied_position, all.size());
    });
  }
  for (std::thread& client : clients) client.join();
  EXPECT_EQ(refused, 0);
  EXPECT_EQ(service_->info().sessions, kThreads);
}

TEST_F(ServiceTest, GenerationsForksClosesAndCancelsTogetherAddUp) {
  Start({.unsent_events_max = 4});
  constexpr int kThreads = 6;
  std::vector<std::thread> clients;
  clients.reserve(kThreads);
  for (int t = 0; t < kThreads; ++t) {
    clients.emplace_back([&, t] {
      for (int i = 0; i < 15; ++i) {
        const std::string id = "s" + std::to_string(t);
        ASSERT_TRUE(Open(id).ok());
        ASSERT_TRUE(Append(id, 0, {1, 2, 3}).ok());
        auto call = std::make_shared<CallState>();
        std::atomic<uint64_t> sent = 0;
        GenerateRequest request = Generation(id, 40);
        request.on_event = [&, call](const GenerateEvent& event) {
          sent += event.tokens.size();
          ++call->unsent;
        };
        // The reader of the stream.
        std::atomic<bool> ended = false;
        std::thread reader([&] {
          while (!ended) {
            if (call->unsent.load() > 0) {
              --call->unsent;
              service_->Wake();
            } else {
              std::this_thread::yield();
            }
          }
        });
        Waiter<GenerateResult> generated;
        service_->Generate(std::move(request),
                           {.deadline = absl::InfiniteDuration(), .call = call},
                           generated.Sink());
        Waiter<ForkResult> fork;
        ForkRequest fork_request;
        fork_request.session_id = id;
        fork_request.position = 2;
        service_->Fork(std::move(fork_request), {}, fork.Sink());
        if (i % 3 == 0) {
          call->cancelled = true;
          service_->Wake();
        }
        const auto result = generated.Get();
        ended = true;
        reader.join();
        ASSERT_TRUE(result.ok() ||
                    ReasonOf(result.status()) == Reason::kCancelled);
        const auto copy = fork.Get();
        ASSERT_TRUE(copy.ok()) << copy.status();
        for (const std::string& open : {id, copy->session_id}) {
          Waiter<CloseResult> closed;
          service_->Close({.session_id = open}, {}, closed.Sink());
          const auto close = closed.Get();
          ASSERT_TRUE(close.ok() && close->closed);
          ASSERT_EQ(close->position, open == id ? 3 + sent : 2);
        }
      }
    });
  }
  for (std::thread& client : clients) client.join();
  EXPECT_TRUE(service_->Drain(absl::Seconds(60)));
  EXPECT_TRUE(engine_->held().empty());
  EXPECT_EQ(service_->info().sessions, 0);
}

TEST_F(ServiceTest, IdleSessionExpiresWithoutAnyRequest) {
  Start({});
  Waiter<OpenResult> opened;
  service_->Open(
      {.session_id = "s", .idle_timeout = absl::Seconds(1)}, {}, opened.Sink());
  ASSERT_TRUE(opened.Get().ok());

  // The service's own timer, and the shortest that there is.
  ASSERT_EQ(
      observer_.first_closed.get_future().wait_for(std::chrono::seconds(60)),
      std::future_status::ready);
  EXPECT_TRUE(engine_->held().empty());
}

TEST_F(ServiceTest, DrainWaitsForAcceptedAppendsAndRefusesNewOnes) {
  Start({.step_tokens_max = 10});
  ASSERT_TRUE(Open("s").ok());
  Waiter<AppendResult> accepted;
  AppendRequest request;
  request.session_id = "s";
  request.tokens = Tokens(5'000, 7);
  service_->Append(std::move(request), {}, accepted.Sink());

  EXPECT_TRUE(service_->Drain(absl::Seconds(60)));
  EXPECT_TRUE(accepted.Get().ok());
  EXPECT_EQ(ReasonOf(Append("s", 5'000, {1}).status()),
            Reason::kServerDraining);
}

TEST_F(ServiceTest, DrainGivesUpAfterItsLimitAndTheEndAnswersTheRest) {
  support::FakeClock still;
  Start({.unsent_events_max = 1}, &still);
  ASSERT_TRUE(Open("s").ok());
  ASSERT_TRUE(Append("s", 0, {1}).ok());
  std::promise<void> entered;
  std::promise<void> go_on;
  engine_->SetOnStep([&, first = true](const engine::Plan&) mutable {
    if (!std::exchange(first, false)) return;
    entered.set_value();
    go_on.get_future().wait();
  });
  Waiter<AppendResult> accepted;
  AppendRequest request;
  request.session_id = "s";
  request.expected_position = 1;
  request.tokens = Tokens(5'000, 7);
  service_->Append(std::move(request), {}, accepted.Sink());
  entered.get_future().wait();

  EXPECT_FALSE(service_->Drain(absl::Milliseconds(10)));
  std::thread ending([&] { service_.reset(); });
  go_on.set_value();
  ending.join();

  const auto answer = accepted.Get();
  EXPECT_TRUE(answer.ok() ||
              ReasonOf(answer.status()) == Reason::kServerDraining);
  EXPECT_EQ(observer_.closed[CloseReason::kDrain], 1);
}

TEST_F(ServiceTest, FaultIsAnsweredOnEveryThread) {
  Start({});
  for (int t = 0; t < 4; ++t) ASSERT_TRUE(Open("s" + std::to_string(t)).ok());
  engine_->FailAt(FakeEngine::Point::kWait, 20);
  std::vector<std::thread> clients;
  clients.reserve(4);
  for (int t = 0; t < 4; ++t) {
    clients.emplace_back([&, t] {
      for (uint64_t i = 0;; ++i) {
        const auto append = Append("s" + std::to_string(t), i, {1});
        if (append.ok()) continue;
        ASSERT_EQ(ReasonOf(append.status()), Reason::kDeviceFault);
        ASSERT_EQ(ReasonOf(service_->health()), Reason::kDeviceFault);
        return;
      }
    });
  }
  for (std::thread& client : clients) client.join();
}

}  // namespace
}  // namespace weir::service
