// SPDX-License-Identifier: Apache-2.0
#include "service/queue.h"

#include <atomic>
#include <thread>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/support/counting_observer.h"

namespace weir::service {
namespace {

using testing::ElementsAre;

class QueueTest : public testing::Test {
 protected:
  Command Get(std::string id) {
    return GetCall(
        {.session_id = std::move(id)},
        CallContext{},
        [this](const absl::StatusOr<SessionInfo>& info) {
          ++answers_;
          last_ = info.status();
        },
        absl::ZeroDuration(),
        &observer_);
  }
  static std::string IdOf(const Command& command) {
    return std::get<GetCall>(command).request.session_id;
  }
  static void Answer(Command& command) {
    std::visit([](auto& call) { call.Answer(absl::UnknownError("done")); },
               command);
  }

  support::CountingObserver observer_;
  std::atomic<int> answers_ = 0;
  absl::Status last_;
  Queue queue_{3, 1000};
};

TEST_F(QueueTest, CommandsComeInTheirOrder) {
  queue_.Push(Get("a"));
  queue_.Push(Get("b"));
  Queue::Batch batch = queue_.Take();

  ASSERT_EQ(batch.commands.size(), 2u);
  EXPECT_EQ(IdOf(batch.commands[0]), "a");
  EXPECT_EQ(IdOf(batch.commands[1]), "b");
  EXPECT_TRUE(queue_.Take().commands.empty());
  for (Command& command : batch.commands) Answer(command);
}

TEST_F(QueueTest, CommandCountsUntilItIsAnsweredNotUntilItIsTaken) {
  for (const char* id : {"a", "b", "c"}) queue_.Push(Get(id));
  Queue::Batch batch = queue_.Take();
  EXPECT_EQ(queue_.in_flight(), 3);

  queue_.Push(Get("d"));
  EXPECT_EQ(ReasonOf(last_), Reason::kQueueFull);
  Answer(batch.commands[0]);
  EXPECT_EQ(queue_.in_flight(), 2);
  queue_.Push(Get("e"));
  Queue::Batch next = queue_.Take();
  ASSERT_EQ(next.commands.size(), 1u);
  Answer(batch.commands[1]);
  Answer(batch.commands[2]);
  Answer(next.commands[0]);
  EXPECT_EQ(queue_.in_flight(), 0);
  EXPECT_EQ(observer_.rejected(Reason::kQueueFull), 1);
}

TEST_F(QueueTest, AnswerFreesItsPlaceBeforeTheCallerHearsOfIt) {
  int64_t in_flight = -1;
  queue_.Push(GetCall(
      {.session_id = "a"},
      CallContext{},
      [&](const absl::StatusOr<SessionInfo>&) {
        in_flight = queue_.in_flight();
      },
      absl::ZeroDuration(),
      &observer_));
  Queue::Batch batch = queue_.Take();
  Answer(batch.commands[0]);

  EXPECT_EQ(in_flight, 0);
}

TEST_F(QueueTest, CompletionsAreNeverRefused) {
  for (const char* id : {"a", "b", "c"}) queue_.Push(Get(id));
  queue_.CloseDoor();
  std::vector<int> ran;
  for (int i = 0; i < 100; ++i) {
    Queue::Reservation reservation = queue_.Reserve();
    reservation.Post([&ran, i] { ran.push_back(i); });
  }
  Queue::Batch batch = queue_.Take();

  ASSERT_EQ(batch.completions.size(), 100u);
  for (Queue::Task& task : batch.completions) std::move(task)();
  EXPECT_EQ(ran.size(), 100u);
  EXPECT_EQ(ran[99], 99);
  for (Command& command : batch.commands) Answer(command);
}

TEST_F(QueueTest, ClosedDoorRefusesWithDraining) {
  queue_.CloseDoor();
  queue_.Push(Get("a"));

  EXPECT_EQ(answers_, 1);
  EXPECT_EQ(ReasonOf(last_), Reason::kServerDraining);
}

TEST_F(QueueTest, WaitEndsForACommandACompletionAndAWake) {
  const auto wait = [&] { queue_.WaitFor(absl::InfiniteDuration()); };
  std::thread command([&] { queue_.Push(Get("a")); });
  wait();
  command.join();
  Queue::Batch batch = queue_.Take();
  for (Command& taken : batch.commands) Answer(taken);

  Queue::Reservation reservation = queue_.Reserve();
  std::thread completion([&] { reservation.Post([] {}); });
  wait();
  completion.join();
  EXPECT_EQ(queue_.TakeCompletions().size(), 1u);

  std::thread wake([&] { queue_.Wake(); });
  wait();
  wake.join();
}

TEST_F(QueueTest, WakeBeforeTheWaitIsNotLost) {
  queue_.Wake();
  queue_.WaitFor(absl::InfiniteDuration());
  queue_.Take();
  queue_.WaitFor(absl::Milliseconds(1));
}

TEST_F(QueueTest, ManyProducersLoseNothing) {
  Queue queue(1'000'000, 1);
  constexpr int kThreads = 4;
  constexpr int kEach = 5'000;
  std::vector<std::thread> producers;
  producers.reserve(kThreads);
  for (int t = 0; t < kThreads; ++t) {
    producers.emplace_back([&, t] {
      for (int i = 0; i < kEach; ++i) queue.Push(Get(std::string(1, 'a' + t)));
    });
  }
  std::vector<int> taken(kThreads);
  int total = 0;
  while (total < kThreads * kEach) {
    queue.WaitFor(absl::InfiniteDuration());
    Queue::Batch batch = queue.Take();
    for (Command& command : batch.commands) {
      ++taken[IdOf(command)[0] - 'a'];
      ++total;
      Answer(command);
    }
  }
  for (std::thread& producer : producers) producer.join();

  EXPECT_THAT(taken, ElementsAre(kEach, kEach, kEach, kEach));
  EXPECT_EQ(queue.in_flight(), 0);
  EXPECT_EQ(answers_, kThreads * kEach);
}

}  // namespace
}  // namespace weir::service
