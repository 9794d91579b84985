// SPDX-License-Identifier: Apache-2.0
//
// What goes wrong inside, and how far it reaches.
#include <functional>
#include <string>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/support/manual_step_loop.h"

namespace weir::service {
namespace {

using support::FakeEngine;
using support::FakeStore;
using support::Generated;
using support::ManualStepLoop;
using support::Reply;
using support::Tokens;
using testing::Contains;
using testing::Pair;

GenerateRequest Generate(std::string id, uint32_t max_tokens) {
  GenerateRequest request;
  request.session_id = std::move(id);
  request.max_tokens = max_tokens;
  return request;
}

ForkRequest Fork(std::string from, std::string to) {
  ForkRequest request;
  request.session_id = std::move(from);
  request.new_session_id = std::move(to);
  return request;
}

class FailureTest : public testing::Test {
 protected:
  void SetUp() override {
    for (const char* id : {"a", "b", "c"}) {
      loop_.Open(id);
      loop_.Append(id, 0, {1, 2, 3});
    }
    loop_.Run();
  }
  Reply<AppendResult> Append(const std::string& id,
                             uint64_t position,
                             Tokens tokens) {
    auto reply = loop_.Append(id, position, std::move(tokens), true);
    loop_.Run();
    return reply;
  }

  ManualStepLoop loop_;
};

TEST_F(FailureTest, NonFiniteStateStopsThatSessionAlone) {
  loop_.engine().PoisonToken(66);
  const auto left = loop_.Append("a", 3, {10, 11}, true);
  const auto lost = loop_.Append("b", 3, {20, 66, 21}, true);
  const auto behind = loop_.Append("b", 6, {22});
  const auto right = loop_.Append("c", 3, {30, 31}, true);
  loop_.Run();

  EXPECT_EQ(lost.reason(), Reason::kNonFiniteState);
  EXPECT_THAT(ValuesOf(lost.status()), Contains(Pair("lastGoodPosition", "3")));
  EXPECT_EQ(behind.reason(), Reason::kNonFiniteState);
  ASSERT_TRUE(left.ok() && right.ok());
  EXPECT_EQ(left->scores[1], FakeEngine::Scores(Tokens{1, 2, 3, 10, 11})[4]);
  EXPECT_EQ(right->scores[1], FakeEngine::Scores(Tokens{1, 2, 3, 30, 31})[4]);
  EXPECT_TRUE(loop_.loop().health().ok());
}

TEST_F(FailureTest, QuarantinedSessionIsReadAndClosedAndNothingElse) {
  loop_.engine().PoisonToken(66);
  Append("b", 3, {66});
  const auto append = Append("b", 4, {1});
  const auto duplicate = Append("b", 0, {1, 2});
  const Generated generated = loop_.Generate(Generate("b", 5));
  const auto fork = loop_.Fork(Fork("b", "d"));
  loop_.Run();

  for (const auto& reason : {append.reason(),
                             duplicate.reason(),
                             generated.end.reason(),
                             fork.reason()}) {
    EXPECT_EQ(reason, Reason::kQuarantined);
  }
  EXPECT_THAT(ValuesOf(append.status()),
              Contains(Pair("lastGoodPosition", "3")));
  const SessionInfo info = loop_.Info("b");
  EXPECT_TRUE(info.quarantined);
  EXPECT_EQ(info.applied_position, 3u);
  const auto closed = loop_.Close("b");
  const auto opened = loop_.Open("b");
  loop_.Run();
  EXPECT_TRUE(closed->closed);
  EXPECT_TRUE(opened->created);
  EXPECT_TRUE(Append("b", 0, {1}).ok());
}

TEST_F(FailureTest, NonFiniteGenerationEndsWithItsReason) {
  const Generated generated = loop_.Generate(Generate("b", 50));
  const Generated neighbour = loop_.Generate(Generate("a", 50));
  for (int i = 0; i < 5; ++i) loop_.RunOnce();
  loop_.engine().PoisonSlot(1);
  loop_.Run();

  EXPECT_EQ(generated.end.reason(), Reason::kNonFiniteState);
  EXPECT_TRUE(neighbour.end.ok());
  EXPECT_TRUE(loop_.Info("b").quarantined);
}

TEST_F(FailureTest, NonFiniteRebuildLeavesNoCopy) {
  ForkRequest request = Fork("a", "d");
  request.position = 2;
  loop_.engine().PoisonToken(2);
  const auto fork = loop_.Fork(std::move(request));
  loop_.Run();

  EXPECT_EQ(fork.reason(), Reason::kNonFiniteState);
  EXPECT_EQ(loop_.engine().held().size(), 3u);
  EXPECT_FALSE(loop_.Info("a").quarantined);
}

class DeviceFaultTest : public FailureTest,
                        public testing::WithParamInterface<FakeEngine::Point> {
};

TEST_P(DeviceFaultTest, EndsEverythingAndIsSaid) {
  const auto waiting = loop_.Append("a", 3, Tokens(5000, 1));
  const auto neighbour = loop_.Append("b", 3, Tokens(5000, 1));
  const Generated generated = loop_.Generate(Generate("c", 50));
  loop_.RunOnce();
  loop_.engine().FailAt(GetParam(), 2);
  loop_.Run();
  const auto later = loop_.Append("c", 0, {1});
  const auto open = loop_.Open("d");
  const auto get = loop_.Get("a");
  loop_.Run();

  for (const auto& reason : {waiting.reason(),
                             neighbour.reason(),
                             generated.end.reason(),
                             later.reason(),
                             open.reason(),
                             get.reason()}) {
    EXPECT_EQ(reason, Reason::kDeviceFault);
  }
  EXPECT_EQ(ReasonOf(loop_.loop().health()), Reason::kDeviceFault);
  EXPECT_EQ(loop_.loop().NextTimer(), absl::InfiniteDuration());
  EXPECT_EQ(loop_.engine().held().size(), 3u);
}

INSTANTIATE_TEST_SUITE_P(Points,
                         DeviceFaultTest,
                         testing::Values(FakeEngine::Point::kSubmit,
                                         FakeEngine::Point::kWait));

TEST_F(FailureTest, AFailedCopyOfAStateIsADeviceFault) {
  const auto waiting = loop_.Append("b", 3, Tokens(5000, 1));
  loop_.engine().FailAt(FakeEngine::Point::kCopy, 1);
  const auto fork = loop_.Fork(Fork("a", "d"));
  loop_.Run();

  EXPECT_EQ(fork.reason(), Reason::kDeviceFault);
  EXPECT_EQ(waiting.reason(), Reason::kDeviceFault);
  EXPECT_EQ(ReasonOf(loop_.loop().health()), Reason::kDeviceFault);
}

TEST_F(FailureTest, FailedCommitAppliesNothing) {
  loop_.store().FailAt(FakeStore::Point::kCommit, 1);
  const auto a = loop_.Append("a", 3, {10, 11});
  const auto behind = loop_.Append("a", 5, {12});
  const auto b = loop_.Append("b", 3, {20});
  loop_.Run();

  EXPECT_EQ(a.reason(), Reason::kStoreFault);
  EXPECT_EQ(behind.reason(), Reason::kStoreFault);
  EXPECT_EQ(b.reason(), Reason::kStoreFault);
  EXPECT_EQ(loop_.Info("a").position, 3u);
  EXPECT_EQ(loop_.Info("a").applied_position, 3u);
  const auto again = Append("a", 3, {10, 11});
  ASSERT_TRUE(again.ok());
  EXPECT_EQ(again->scores[1], FakeEngine::Scores(Tokens{1, 2, 3, 10, 11})[4]);
}

TEST_F(FailureTest, CommitThatFailsAfterItsRowsQuarantines) {
  loop_.store().Hold();
  loop_.store().FailAt(FakeStore::Point::kCommit, 1);
  const auto lost = loop_.Append("a", 3, {10, 11});
  const auto kept = loop_.Append("b", 0, {1, 2, 3});
  loop_.Run();
  loop_.store().Release();
  loop_.Run();

  EXPECT_EQ(lost.reason(), Reason::kStoreFault);
  EXPECT_TRUE(kept.ok());
  EXPECT_TRUE(loop_.Info("a").quarantined);
  EXPECT_EQ(loop_.Info("a").position, 3u);
  EXPECT_EQ(Append("a", 3, {10}).reason(), Reason::kQuarantined);
}

TEST_F(FailureTest, FailedCommitOfATokenEndsItsGenerationBeforeIt) {
  const Generated generated = loop_.Generate(Generate("a", 50));
  for (int i = 0; i < 5; ++i) loop_.RunOnce();
  loop_.store().FailAt(FakeStore::Point::kCommit, 1);
  loop_.Run();

  EXPECT_EQ(generated.end.reason(), Reason::kStoreFault);
  const SessionInfo info = loop_.Info("a");
  EXPECT_EQ(info.position, 3 + generated.tokens().size());
  EXPECT_EQ(info.applied_position, info.position);
  EXPECT_FALSE(info.quarantined);
  EXPECT_TRUE(Append("a", info.position, {1}).ok());
}

TEST_F(FailureTest, LaterCommitsOfAFailedRunAreVoid) {
  // The first record fails while the second is under way; the second cannot
  // stand without it.
  loop_.store().Hold();
  loop_.store().FailAt(FakeStore::Point::kCommit, 1);
  loop_.Append("b", 3, Tokens(5000, 1));
  const auto first = loop_.Append("a", 3, Tokens(2000, 1));
  loop_.RunOnce();
  const auto second = loop_.Append("a", 2003, {5});
  loop_.RunOnce();
  loop_.store().Release();
  loop_.Run();

  EXPECT_EQ(first.reason(), Reason::kStoreFault);
  EXPECT_EQ(second.reason(), Reason::kStoreFault);
  EXPECT_EQ(loop_.Info("a").position, 3u);
}

TEST_F(FailureTest, FailedReadIsAnsweredAndTheNextOneGoesOn) {
  loop_.store().FailAt(FakeStore::Point::kRead, 1);
  const auto failed = loop_.Append("a", 0, {1, 2});
  const auto next = loop_.Append("a", 3, {4});
  loop_.Run();

  EXPECT_EQ(failed.reason(), Reason::kStoreFault);
  EXPECT_TRUE(next.ok());
}

// What each request ended with, and that all add up.
struct Outcome {
  int64_t unanswered = 0;
  int64_t failed = 0;
};

// A day in the life of a server, small.
Outcome Live(ManualStepLoop& loop) {
  std::vector<Reply<OpenResult>> opens;
  std::vector<Reply<AppendResult>> appends;
  std::vector<Generated> generations;
  std::vector<Reply<ForkResult>> forks;
  std::vector<Reply<CloseResult>> closes;
  for (const char* id : {"a", "b", "c", "d"}) opens.push_back(loop.Open(id));
  for (const char* id : {"a", "b", "c", "d"}) {
    appends.push_back(loop.Append(id, 0, Tokens(700, 1), true));
    appends.push_back(loop.Append(id, 700, {2, 3, 4}));
  }
  loop.RunOnce();
  appends.push_back(loop.Append("a", 698, {1, 1, 2, 3, 4, 5}, true));
  loop.Run();
  generations.push_back(loop.Generate(Generate("b", 5)));
  GenerateRequest penalised = Generate("c", 5);
  penalised.sampling.repetition_penalty = 2;
  generations.push_back(loop.Generate(std::move(penalised)));
  forks.push_back(loop.Fork(Fork("a", "e")));
  ForkRequest earlier = Fork("a", "f");
  earlier.position = 300;
  forks.push_back(loop.Fork(std::move(earlier)));
  loop.RunOnce();
  appends.push_back(loop.Append("e", 704, {9}));
  closes.push_back(loop.Close("d"));
  loop.Run();
  closes.push_back(loop.Close("c"));
  loop.Run();

  Outcome outcome;
  const auto count = [&](const auto& replies) {
    for (const auto& reply : replies) {
      outcome.unanswered += reply.done() ? 0 : 1;
      outcome.failed += reply.ok() ? 0 : 1;
    }
  };
  count(opens);
  count(appends);
  count(forks);
  count(closes);
  for (const Generated& generated : generations) {
    count(std::vector{generated.end});
  }
  return outcome;
}

struct Anomaly {
  std::string name;
  std::function<void(ManualStepLoop&, int64_t n)> fail_at;
};

class AnomalyTest : public testing::TestWithParam<Anomaly> {};

// The n-th call fails for n = 1, 2, ... until one run passes without a
// failure; whatever fails, all is answered and slots, logs and sessions agree.
TEST_P(AnomalyTest, WhateverFailsAllAddsUp) {
  bool passed = false;
  for (int64_t n = 1; !passed; ++n) {
    ASSERT_LT(n, 500);
    SCOPED_TRACE("call " + std::to_string(n));
    ManualStepLoop loop;
    GetParam().fail_at(loop, n);

    const Outcome outcome = Live(loop);

    EXPECT_EQ(outcome.unanswered, 0);
    passed = outcome.failed == 0;
    EXPECT_TRUE(!passed || n > 1);
    const auto sessions = static_cast<size_t>(loop.loop().info().sessions);
    EXPECT_EQ(loop.engine().held().size(), sessions);
    EXPECT_EQ(loop.store().logs(), static_cast<int64_t>(sessions));
    if (!loop.loop().health().ok()) continue;
    EXPECT_EQ(loop.observer().levels.backlog_tokens, 0);
    GetParam().fail_at(loop, 0);
    const auto list = loop.List({.page_size = 0, .after = ""});
    loop.Run();
    EXPECT_EQ(list->sessions.size(), sessions);
    for (const SessionInfo& info : list->sessions) {
      EXPECT_EQ(info.position, info.applied_position);
      loop.Close(info.session_id);
    }
    loop.Run();
    EXPECT_TRUE(loop.engine().held().empty());
    EXPECT_EQ(loop.store().MemoryBytes(), 0u);
    const auto opened = loop.Open("new");
    loop.Run();
    EXPECT_TRUE(opened.ok());
  }
}

INSTANTIATE_TEST_SUITE_P(
    Calls,
    AnomalyTest,
    testing::Values(Anomaly{"AcquireSlot",
                            [](ManualStepLoop& loop, int64_t n) {
                              loop.engine().FailAt(
                                  FakeEngine::Point::kAcquireSlot, n);
                            }},
                    Anomaly{"Submit",
                            [](ManualStepLoop& loop, int64_t n) {
                              loop.engine().FailAt(FakeEngine::Point::kSubmit,
                                                   n);
                            }},
                    Anomaly{"Wait",
                            [](ManualStepLoop& loop, int64_t n) {
                              loop.engine().FailAt(FakeEngine::Point::kWait, n);
                            }},
                    Anomaly{"Copy",
                            [](ManualStepLoop& loop, int64_t n) {
                              loop.engine().FailAt(FakeEngine::Point::kCopy, n);
                            }},
                    Anomaly{"StoreCreate",
                            [](ManualStepLoop& loop, int64_t n) {
                              loop.store().FailAt(FakeStore::Point::kCreate, n);
                            }},
                    Anomaly{"StoreFork",
                            [](ManualStepLoop& loop, int64_t n) {
                              loop.store().FailAt(FakeStore::Point::kFork, n);
                            }},
                    Anomaly{"StoreCommit",
                            [](ManualStepLoop& loop, int64_t n) {
                              loop.store().FailAt(FakeStore::Point::kCommit, n);
                            }},
                    Anomaly{"StoreRead",
                            [](ManualStepLoop& loop, int64_t n) {
                              loop.store().FailAt(FakeStore::Point::kRead, n);
                            }}),
    [](const testing::TestParamInfo<Anomaly>& info) {
      return info.param.name;
    });

}  // namespace
}  // namespace weir::service
