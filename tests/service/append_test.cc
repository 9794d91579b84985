// SPDX-License-Identifier: Apache-2.0
//
// The contract of an append: exactly once, by position.
#include <cmath>
#include <string>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/support/manual_step_loop.h"

namespace weir::service {
namespace {

using support::FakeEngine;
using support::FakeStore;
using support::ManualStepLoop;
using support::Reply;
using support::Tokens;
using testing::Contains;
using testing::ElementsAre;
using testing::HasSubstr;
using testing::IsNan;
using testing::Pair;
using testing::Pointwise;

Tokens Text(std::string_view text) { return Tokens(text.begin(), text.end()); }

Tokens Count(uint32_t from, size_t count) {
  Tokens tokens;
  for (size_t i = 0; i < count; ++i) tokens.push_back((from + i * 7) % 256);
  return tokens;
}

MATCHER(SameScore, "") {
  const auto& [a, b] = arg;
  return a == b || (std::isnan(a) && std::isnan(b));
}

class AppendTest : public testing::Test {
 protected:
  void SetUp() override { ASSERT_TRUE(Opened("s")); }
  bool Opened(const std::string& id) {
    const auto opened = loop_.Open(id);
    loop_.Run();
    return opened.ok();
  }
  Reply<AppendResult> Append(uint64_t position,
                             Tokens tokens,
                             bool want_scores = false) {
    auto reply = loop_.Append("s", position, std::move(tokens), want_scores);
    loop_.Run();
    return reply;
  }
  AppendRequest Request(uint64_t position, Tokens tokens) {
    AppendRequest request;
    request.session_id = "s";
    request.expected_position = position;
    request.tokens = std::move(tokens);
    return request;
  }
  uint64_t Position() { return loop_.Info("s").position; }
  // The only session's state has consumed exactly these.
  void ExpectState(const Tokens& tokens) {
    const std::vector<int32_t> held = loop_.engine().held();
    ASSERT_EQ(held.size(), 1u);
    EXPECT_EQ(loop_.engine().consumed(held[0]), tokens.size());
    EXPECT_EQ(loop_.engine().hash(held[0]), FakeEngine::Hash(tokens));
  }

  ManualStepLoop loop_;
};

TEST_F(AppendTest, AtTheEndIsApplied) {
  const auto first = Append(0, Text("hello "));
  const auto second = Append(6, Text("world"));

  ASSERT_TRUE(first.ok() && second.ok());
  EXPECT_EQ(first->position, 6u);
  EXPECT_FALSE(first->duplicate);
  EXPECT_EQ(first->duplicate_tokens, 0u);
  EXPECT_EQ(first->epoch, 1u);
  EXPECT_EQ(first->local_position, 0u);
  EXPECT_EQ(second->position, 11u);
  ExpectState(Text("hello world"));
}

TEST_F(AppendTest, ScoresAreTheEnginesAndTheFirstTokenHasNone) {
  const Tokens all = Text("hello world");
  const auto first = Append(0, Text("hello "), true);
  const auto second = Append(6, Text("world"), true);

  std::vector<float> scores = first->scores;
  scores.insert(scores.end(), second->scores.begin(), second->scores.end());
  EXPECT_THAT(scores, Pointwise(SameScore(), FakeEngine::Scores(all)));
  EXPECT_THAT(first->scores[0], IsNan());
}

TEST_F(AppendTest, TotalsCountEachAskedScoreOnce) {
  Append(0, Text("abc"), true);
  Append(3, Text("defg"), false);
  Append(7, Text("hi"), true);
  Append(0, Text("abcdefghi"), true);

  const std::vector<float> scores = FakeEngine::Scores(Text("abcdefghi"));
  const SessionInfo info = loop_.Info("s");
  EXPECT_EQ(info.scored_tokens, 4u);
  EXPECT_DOUBLE_EQ(info.sum_log_prob,
                   double{scores[1]} + scores[2] + scores[7] + scores[8]);
}

TEST_F(AppendTest, DuplicateIsAnsweredAsTheFirstAtAnyAge) {
  const auto first = Append(0, Text("hello"), true);
  for (int i = 0; i < 50; ++i) Append(5 + i * 1000, Count(i, 1000));

  const auto again = Append(0, Text("hello"), true);

  ASSERT_TRUE(again.ok());
  EXPECT_TRUE(again->duplicate);
  EXPECT_EQ(again->duplicate_tokens, 5u);
  EXPECT_EQ(again->position, 50'005u);
  EXPECT_THAT(again->scores, Pointwise(SameScore(), first->scores));
  EXPECT_EQ(loop_.observer().duplicates, 5u);
}

TEST_F(AppendTest, DuplicateHasNoScoreWhereNoneWasAskedFor) {
  const Tokens all = Text("abcdef");
  Append(0, Text("abc"), false);
  Append(3, Text("def"), true);

  const auto again = Append(0, all, true);

  std::vector<float> wanted = FakeEngine::Scores(all);
  wanted[1] = wanted[2] = NAN;
  EXPECT_THAT(again->scores, Pointwise(SameScore(), wanted));
}

TEST_F(AppendTest, OverlapWithANewTailAppliesTheTail) {
  Append(0, Text("hello wo"), true);

  const auto overlap = Append(6, Text("world"), true);

  ASSERT_TRUE(overlap.ok());
  EXPECT_FALSE(overlap->duplicate);
  EXPECT_EQ(overlap->duplicate_tokens, 2u);
  EXPECT_EQ(overlap->position, 11u);
  const std::vector<float> scores = FakeEngine::Scores(Text("hello world"));
  EXPECT_THAT(overlap->scores,
              Pointwise(SameScore(),
                        std::vector<float>(scores.begin() + 6, scores.end())));
  ExpectState(Text("hello world"));
  EXPECT_EQ(loop_.Info("s").scored_tokens, 10u);
}

TEST_F(AppendTest, DifferentTokenAnywhereAppliesNothing) {
  Append(0, Text("hello world"));

  for (const auto& [position, text] :
       std::vector<std::pair<uint64_t, std::string>>{{0, "jello"},
                                                     {0, "hello worlD"},
                                                     {10, "D and more"},
                                                     {0, "hello worlD more"},
                                                     {6, "w0rld and more"}}) {
    const auto conflict = Append(position, Text(text));
    EXPECT_EQ(conflict.reason(), Reason::kPositionConflict) << text;
    EXPECT_EQ(conflict.status().code(), absl::StatusCode::kAborted);
    EXPECT_THAT(ValuesOf(conflict.status()), Contains(Pair("position", "11")));
    EXPECT_THAT(ValuesOf(conflict.status()),
                Contains(Pair("expectedPosition", std::to_string(position))));
  }

  EXPECT_EQ(Position(), 11u);
  ExpectState(Text("hello world"));
}

TEST_F(AppendTest, GapIsRefusedWithThePosition) {
  Append(0, Text("hello"));

  const auto gap = Append(6, Text("x"));

  EXPECT_EQ(gap.reason(), Reason::kPositionGap);
  EXPECT_THAT(
      ValuesOf(gap.status()),
      ElementsAre(Pair("expectedPosition", "6"), Pair("position", "5")));
  ExpectState(Text("hello"));
}

TEST_F(AppendTest, PositionsNearTheLastDoNotWrap) {
  Append(0, Text("hello"));
  for (const uint64_t position :
       {~uint64_t{0}, ~uint64_t{0} - 4, uint64_t{1} << 63}) {
    EXPECT_EQ(Append(position, Text("hello")).reason(), Reason::kSessionLength);
    EXPECT_TRUE(Append(position, {}).ok());
  }
  EXPECT_EQ(Position(), 5u);
}

TEST_F(AppendTest, PastTheModelsPositionsNothingIsApplied) {
  ManualStepLoop loop({.engine = {.positions_max = 8}, .limits = {}});
  loop.Open("s");
  loop.Append("s", 0, Text("hello"));
  loop.Run();

  const auto past = loop.Append("s", 5, Text("more"));
  loop.Run();

  EXPECT_EQ(past.reason(), Reason::kSessionLength);
  EXPECT_THAT(ValuesOf(past.status()),
              ElementsAre(Pair("expectedPosition", "5"),
                          Pair("longest", "8"),
                          Pair("position", "5")));
  EXPECT_THAT(std::string(past.status().message()),
              HasSubstr("that this model reads, 8 tokens"));
  // What fits is taken, and what is there may be sent again.
  const auto fits = loop.Append("s", 5, Text("end"));
  loop.Run();
  EXPECT_EQ(fits->position, 8u);
  const auto again = loop.Append("s", 5, Text("end"));
  loop.Run();
  EXPECT_TRUE(again->duplicate);
  const auto full = loop.Append("s", 8, Text("x"));
  loop.Run();
  EXPECT_EQ(full.reason(), Reason::kSessionLength);
}

TEST_F(AppendTest, EmptyAppendReadsThePosition) {
  Append(0, Text("hello"));

  const auto empty = Append(3, {});

  ASSERT_TRUE(empty.ok());
  EXPECT_EQ(empty->position, 5u);
  EXPECT_FALSE(empty->duplicate);
  EXPECT_TRUE(empty->scores.empty());
}

TEST_F(AppendTest, PipelinedAppendsAreAcceptedBeforeAnyIsApplied) {
  std::vector<Reply<AppendResult>> replies;
  Tokens all;
  for (int i = 0; i < 20; ++i) {
    const Tokens part = Count(i, 100);
    replies.push_back(loop_.Append("s", all.size(), part));
    all.insert(all.end(), part.begin(), part.end());
  }

  loop_.RunOnce();
  const auto info = loop_.Get("s");
  loop_.RunOnce();
  EXPECT_EQ(info->position, 2000u);
  EXPECT_LT(info->applied_position, 2000u);
  loop_.Run();

  for (size_t i = 0; i < replies.size(); ++i) {
    ASSERT_TRUE(replies[i].ok());
    EXPECT_EQ(replies[i]->position, 100 * (i + 1));
  }
  ExpectState(all);
}

TEST_F(AppendTest, AllOfADrainedQueueGoToTheStoreInOneCommit) {
  ASSERT_TRUE(Opened("t"));
  loop_.Append("s", 0, Text("ab"));
  loop_.Append("t", 0, Text("cd"));
  loop_.Append("s", 2, Text("ef"));
  loop_.Run();

  EXPECT_THAT(loop_.store().commits(), ElementsAre(3));
}

TEST_F(AppendTest, ResentPipelineBehindTheEndFindsItsPlace) {
  Append(0, Text("abcdef"));

  const auto a = loop_.Append("s", 0, Text("abcd"));
  const auto b = loop_.Append("s", 4, Text("efgh"));
  const auto c = loop_.Append("s", 8, Text("ij"));
  loop_.Run();

  ASSERT_TRUE(a.ok() && b.ok() && c.ok());
  EXPECT_TRUE(a->duplicate);
  EXPECT_EQ(b->duplicate_tokens, 2u);
  EXPECT_EQ(c->duplicate_tokens, 0u);
  EXPECT_EQ(c->position, 10u);
  ExpectState(Text("abcdefghij"));
}

TEST_F(AppendTest, DuplicateOfAWaitingAppendIsAnsweredAfterIt) {
  const Tokens tokens = Count(3, 2000);
  const auto first = loop_.Append("s", 0, tokens, true);
  loop_.RunOnce();
  const auto again = loop_.Append("s", 0, tokens, true);
  loop_.RunOnce();
  EXPECT_FALSE(first.done());
  EXPECT_FALSE(again.done());
  loop_.Run();

  ASSERT_TRUE(first.ok() && again.ok());
  EXPECT_TRUE(again->duplicate);
  EXPECT_THAT(again->scores, Pointwise(SameScore(), first->scores));
  ExpectState(tokens);
}

TEST_F(AppendTest, ReplyWaitsForItsCommit) {
  loop_.store().Hold();
  const auto reply = loop_.Append("s", 0, Text("hello"));
  loop_.Run();
  ExpectState(Text("hello"));
  EXPECT_FALSE(reply.done());

  loop_.store().Release();
  loop_.Run();
  EXPECT_TRUE(reply.ok());
}

TEST_F(AppendTest, EndThatMovesWhileTheLogIsReadIsLookedAtAgain) {
  Append(0, Text("abcd"));
  loop_.store().Hold();
  const auto overlap = loop_.Append("s", 2, Text("cdef"));
  const auto behind = loop_.Append("s", 4, Text("efgh"));
  loop_.Run();
  EXPECT_FALSE(overlap.done());
  loop_.store().Release();
  loop_.Run();

  ASSERT_TRUE(overlap.ok() && behind.ok());
  EXPECT_EQ(overlap->duplicate_tokens, 2u);
  EXPECT_EQ(behind->duplicate_tokens, 2u);
  ExpectState(Text("abcdefgh"));
}

TEST_F(AppendTest, BadAppendsAreRefusedWithTheirReasons) {
  Append(0, Text("hello"));

  EXPECT_EQ(Append(5, {1, 256}).reason(), Reason::kTokenOutOfVocab);
  EXPECT_EQ(Append(5, Tokens(65'537, 1)).reason(), Reason::kTooManyTokens);
  AppendRequest unknown = Request(0, {1});
  unknown.session_id = "nobody";
  AppendRequest malformed = Request(0, {1});
  malformed.session_id = "No Body";
  AppendRequest durable = Request(5, {1});
  durable.durability = Durability::kShared;
  const auto not_found = loop_.Append(std::move(unknown));
  const auto bad_id = loop_.Append(std::move(malformed));
  const auto unavailable = loop_.Append(std::move(durable));
  loop_.Run();

  EXPECT_EQ(not_found.reason(), Reason::kSessionNotFound);
  EXPECT_EQ(bad_id.reason(), Reason::kBadId);
  EXPECT_EQ(unavailable.reason(), Reason::kDurabilityUnavailable);
  ExpectState(Text("hello"));
}

TEST_F(AppendTest, LargestAppendIsTaken) {
  const Tokens tokens = Count(1, 65'536);
  EXPECT_TRUE(Append(0, tokens).ok());
  ExpectState(tokens);
}

TEST_F(AppendTest, CancelledBeforeAcceptanceHasNoEffect) {
  const auto call = std::make_shared<CallState>();
  call->cancelled = true;
  const auto reply =
      loop_.Append(Request(0, Text("hello")),
                   {.deadline = absl::InfiniteDuration(), .call = call});
  loop_.Run();

  EXPECT_EQ(reply.reason(), Reason::kCancelled);
  EXPECT_EQ(Position(), 0u);
  ExpectState({});
}

TEST_F(AppendTest, CancelledAfterAcceptanceFinishes) {
  const auto call = std::make_shared<CallState>();
  const Tokens tokens = Count(1, 3000);
  const auto reply = loop_.Append(
      Request(0, tokens), {.deadline = absl::InfiniteDuration(), .call = call});
  loop_.RunOnce();
  call->cancelled = true;
  loop_.Run();

  EXPECT_TRUE(reply.ok());
  ExpectState(tokens);
}

TEST_F(AppendTest, LateAppendIsDroppedBeforeItIsAccepted) {
  const absl::Duration deadline = loop_.clock().Now() + absl::Seconds(1);
  const auto in_time = loop_.Append(Request(0, Text("a")),
                                    {.deadline = deadline, .call = nullptr});
  loop_.Run();
  const auto late = loop_.Append(Request(1, Text("b")),
                                 {.deadline = deadline, .call = nullptr});
  loop_.clock().Advance(absl::Seconds(2));
  loop_.Run();

  EXPECT_TRUE(in_time.ok());
  EXPECT_EQ(late.reason(), Reason::kDeadlineInQueue);
  ExpectState(Text("a"));
}

TEST_F(AppendTest, OneThatCannotBeInTimeIsRefusedAtOnce) {
  loop_.engine().SetOnStep([this](const engine::Plan& plan) {
    for (const engine::Row& row : plan.rows) {
      loop_.clock().Advance(absl::Milliseconds(1) * row.tokens.size());
    }
  });
  const auto in = [this](absl::Duration left) {
    return CallContext{.deadline = loop_.clock().Now() + left, .call = nullptr};
  };
  ASSERT_TRUE(Append(0, Count(0, 512)).ok());
  const int64_t steps = loop_.engine().steps();

  const auto late =
      loop_.Append(Request(512, Count(0, 2000)), in(absl::Seconds(1)));
  loop_.Run();
  EXPECT_EQ(late.reason(), Reason::kDeadlineInQueue);
  EXPECT_EQ(loop_.engine().steps(), steps);
  EXPECT_EQ(Position(), 512u);

  const auto in_time =
      loop_.Append(Request(512, Count(0, 2000)), in(absl::Seconds(3)));
  loop_.Run();
  EXPECT_TRUE(in_time.ok());
}

TEST_F(AppendTest, WhatWaitsBeforeItCountsToo) {
  ASSERT_TRUE(Opened("other"));
  loop_.engine().SetOnStep([this](const engine::Plan& plan) {
    for (const engine::Row& row : plan.rows) {
      loop_.clock().Advance(absl::Milliseconds(1) * row.tokens.size());
    }
  });
  ASSERT_TRUE(Append(0, Count(0, 512)).ok());
  loop_.Append("other", 0, Count(0, 1000));
  loop_.Append(Request(512, Count(0, 1000)));
  loop_.RunOnce();  // 512 of these 2,000 tokens

  const auto late = loop_.Append(
      Request(1512, Count(0, 100)),
      {.deadline = loop_.clock().Now() + absl::Seconds(1), .call = nullptr});
  loop_.Run();

  EXPECT_EQ(late.reason(), Reason::kDeadlineInQueue);
  EXPECT_EQ(Position(), 1512u);
}

TEST_F(AppendTest, WhatCameInTheSameQueueCountsToo) {
  ASSERT_TRUE(Opened("other"));
  loop_.engine().SetOnStep([this](const engine::Plan& plan) {
    for (const engine::Row& row : plan.rows) {
      loop_.clock().Advance(absl::Milliseconds(1) * row.tokens.size());
    }
  });
  ASSERT_TRUE(Append(0, Count(0, 512)).ok());
  const CallContext soon = {.deadline = loop_.clock().Now() + absl::Seconds(1),
                            .call = nullptr};
  loop_.Append("other", 0, Count(0, 900));

  const auto late = loop_.Append(Request(512, Count(0, 600)), soon);
  const auto in_time = loop_.Append(Request(512, Count(0, 400)), soon);
  loop_.Run();

  EXPECT_EQ(late.reason(), Reason::kDeadlineInQueue);
  EXPECT_TRUE(in_time.ok());
}

TEST_F(AppendTest, BacklogIsWhatIsAcceptedAndNotInAState) {
  ASSERT_TRUE(Opened("other"));
  const int64_t& backlog = loop_.observer().levels.backlog_tokens;
  loop_.Append("other", 0, Count(0, 1000));
  loop_.Append("s", 0, Count(0, 1000));
  loop_.Append("s", 1000, Count(0, 100));
  loop_.RunOnce();
  EXPECT_EQ(backlog, 2100 - 512);
  const auto closed = loop_.Close("other");
  loop_.RunOnce();
  EXPECT_EQ(backlog, 1100 - 256 - 512);

  loop_.engine().PoisonSlot(loop_.engine().held().at(0));
  loop_.Run();

  EXPECT_EQ(backlog, 0);
}

TEST_F(AppendTest, DeadlineThatPassesWhileTheLogIsReadDropsTheTail) {
  Append(0, Text("abcd"));
  loop_.store().Hold();
  const auto late = loop_.Append(
      Request(2, Text("cdef")),
      {.deadline = loop_.clock().Now() + absl::Seconds(1), .call = nullptr});
  loop_.Run();
  loop_.clock().Advance(absl::Seconds(2));
  loop_.store().Release();
  loop_.Run();

  EXPECT_EQ(late.reason(), Reason::kDeadlineInQueue);
  ExpectState(Text("abcd"));
}

TEST_F(AppendTest, ProgressComesAfterEachRowButTheLast) {
  AppendRequest request = Request(0, Count(1, 1200));
  std::vector<uint64_t> progress;
  request.on_progress = [&](uint64_t applied, uint64_t end) {
    EXPECT_EQ(end, 1200u);
    progress.push_back(applied);
  };
  loop_.Append(std::move(request));
  loop_.Run();

  EXPECT_THAT(progress, ElementsAre(512, 1024));
}

TEST_F(AppendTest, DurableAppendWaitsForItsLevelAndSaysSo) {
  loop_.store().Support(Durability::kLocal);
  AppendRequest durable = Request(0, Text("abc"));
  durable.durability = Durability::kLocal;
  const auto local = loop_.Append(std::move(durable));
  const auto applied = loop_.Append("s", 3, Text("def"));
  loop_.Run();
  AppendRequest again = Request(0, Text("abcdef"));
  again.durability = Durability::kLocal;
  loop_.store().Hold();
  const auto raised = loop_.Append(std::move(again));
  loop_.Run();
  EXPECT_FALSE(raised.done());
  loop_.store().Release();
  loop_.Run();

  ASSERT_TRUE(local.ok() && applied.ok() && raised.ok());
  EXPECT_EQ(local->local_position, 3u);
  EXPECT_EQ(applied->local_position, 3u);
  EXPECT_TRUE(raised->duplicate);
  EXPECT_EQ(raised->local_position, 6u);
  EXPECT_EQ(raised->shared_position, 0u);
}

TEST_F(AppendTest, LevelsMixedInOneQueueReachTheLogInTheirOrder) {
  loop_.store().Support(Durability::kLocal);
  std::vector<Reply<AppendResult>> replies;
  for (uint64_t i = 0; i < 6; ++i) {
    AppendRequest request = Request(2 * i, Count(i, 2));
    request.durability = i % 2 == 0 ? Durability::kLocal : Durability::kApplied;
    replies.push_back(loop_.Append(std::move(request)));
  }
  loop_.Run();

  for (const auto& reply : replies) EXPECT_TRUE(reply.ok()) << reply.status();
  EXPECT_EQ(Position(), 12u);
}

TEST_F(AppendTest, CloseAnswersWhatWaits) {
  const auto waiting = loop_.Append("s", 0, Count(1, 5000));
  loop_.RunOnce();
  const auto behind = loop_.Append("s", 5000, Text("x"));
  const auto closed = loop_.Close("s");
  const auto after = loop_.Append("s", 5001, Text("y"));
  const auto twice = loop_.Close("s");
  loop_.Run();

  EXPECT_EQ(waiting.reason(), Reason::kSessionNotFound);
  EXPECT_EQ(behind.reason(), Reason::kSessionNotFound);
  EXPECT_EQ(after.reason(), Reason::kSessionNotFound);
  ASSERT_TRUE(closed.ok() && twice.ok());
  EXPECT_TRUE(closed->closed);
  EXPECT_EQ(closed->position, 5001u);
  EXPECT_FALSE(twice->closed);
  EXPECT_TRUE(loop_.engine().held().empty());
  EXPECT_EQ(loop_.store().logs(), 0);
}

TEST_F(AppendTest, CloseInOneQueueWithAnAppendSparesTheNeighboursCommit) {
  ASSERT_TRUE(Opened("t"));
  const auto lost = loop_.Append("s", 0, Text("gone"));
  const auto kept = loop_.Append("t", 0, Text("kept"));
  loop_.Close("s");
  const auto opened = loop_.Open("s");
  const auto fresh = loop_.Append("s", 0, Text("new"));
  loop_.Run();

  EXPECT_EQ(lost.reason(), Reason::kSessionNotFound);
  EXPECT_TRUE(kept.ok());
  EXPECT_TRUE(opened.ok());
  EXPECT_TRUE(fresh.ok());
  EXPECT_EQ(Position(), 3u);
}

TEST_F(AppendTest, TokensAreCountedAsTheyAreAppliedAndReusedOnesOnce) {
  Append(0, Text("hello"));
  loop_.Append("s", 5, Count(0, 1200));
  loop_.RunOnce();
  EXPECT_EQ(loop_.observer().appended, 5u + 512);
  EXPECT_EQ(loop_.observer().reused, 5u);
  loop_.Run();

  EXPECT_EQ(loop_.observer().appended, 5u + 1200);
  EXPECT_EQ(loop_.observer().reused, 5u);
}

TEST_F(AppendTest, ObserverHearsOfItAll) {
  Append(0, Text("hello"), true);
  Append(5, Text(" world"));
  Append(0, Text("hello"));
  Append(99, Text("gap"));

  const support::CountingObserver& seen = loop_.observer();
  EXPECT_EQ(seen.appended, 11u);
  EXPECT_EQ(seen.reused, 5u);
  EXPECT_EQ(seen.duplicates, 5u);
  EXPECT_EQ(seen.acks, 3);
  EXPECT_EQ(seen.queue_times, 2);
  EXPECT_EQ(seen.rejected(Reason::kPositionGap), 1);
  EXPECT_EQ(seen.levels.sessions, 1);
  EXPECT_EQ(seen.levels.slots_free, 7);
  ASSERT_EQ(seen.steps.size(), 2u);
  EXPECT_EQ(seen.steps[0].phase, StepPhase::kPrefill);
  EXPECT_EQ(seen.steps[0].tokens, 5);
}

}  // namespace
}  // namespace weir::service
