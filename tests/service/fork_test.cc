// SPDX-License-Identifier: Apache-2.0
//
// Forks: copies at the end, rebuilds behind it.
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

Tokens Count(size_t count) {
  Tokens tokens;
  for (size_t i = 0; i < count; ++i) tokens.push_back(i * 11 % 251);
  return tokens;
}

class ForkTest : public testing::Test {
 protected:
  void SetUp() override {
    loop_.Open(OpenRequest{.session_id = "s", .seed = 7});
    const auto first = loop_.Append("s", 0, First(1000), true);
    loop_.Append("s", 1000, Tokens(all_.begin() + 1000, all_.end()));
    loop_.Run();
    ASSERT_TRUE(first.ok());
  }
  Tokens First(size_t count) {
    return Tokens(all_.begin(), all_.begin() + count);
  }
  static ForkRequest Request(std::string new_id,
                             std::optional<uint64_t> position = {},
                             std::string request_id = "") {
    ForkRequest request;
    request.session_id = "s";
    request.new_session_id = std::move(new_id);
    request.position = position;
    request.request_id = std::move(request_id);
    return request;
  }
  Reply<ForkResult> Fork(ForkRequest request) {
    auto reply = loop_.Fork(std::move(request));
    loop_.Run();
    return reply;
  }
  // The next token's score is that of a state which has consumed these.
  void ExpectState(const std::string& id, const Tokens& tokens) {
    const auto next = loop_.Append(id, tokens.size(), {5}, true);
    loop_.Run();
    ASSERT_TRUE(next.ok()) << id << " " << next.status();
    EXPECT_EQ(next->scores[0], FakeEngine::Score(FakeEngine::Hash(tokens), 5));
  }

  const Tokens all_ = Count(20'000);
  ManualStepLoop loop_;
};

TEST_F(ForkTest, AtTheEndIsACopyWithItsTotals) {
  const int64_t steps = loop_.engine().steps();
  const auto fork = Fork(Request("t"));

  ASSERT_TRUE(fork.ok());
  EXPECT_EQ(fork->session_id, "t");
  EXPECT_EQ(fork->position, 20'000u);
  EXPECT_FALSE(fork->duplicate);
  EXPECT_EQ(loop_.engine().steps(), steps);
  const SessionInfo original = loop_.Info("s");
  const SessionInfo copy = loop_.Info("t");
  EXPECT_EQ(copy.position, 20'000u);
  EXPECT_EQ(copy.applied_position, 20'000u);
  EXPECT_EQ(copy.scored_tokens, 999u);
  EXPECT_EQ(copy.sum_log_prob, original.sum_log_prob);
  EXPECT_EQ(copy.seed, 7u);
  ExpectState("t", all_);
  ExpectState("s", all_);
}

TEST_F(ForkTest, EarlierPositionIsRebuiltFromTheLog) {
  const auto fork = Fork(Request("t", 9'000));

  ASSERT_TRUE(fork.ok());
  EXPECT_EQ(fork->position, 9'000u);
  const SessionInfo copy = loop_.Info("t");
  EXPECT_EQ(copy.position, 9'000u);
  EXPECT_EQ(copy.applied_position, 9'000u);
  EXPECT_EQ(copy.scored_tokens, 999u);
  EXPECT_DOUBLE_EQ(copy.sum_log_prob, loop_.Info("s").sum_log_prob);
  ExpectState("t", First(9'000));
  ExpectState("s", all_);
}

TEST_F(ForkTest, EarlierTotalsAreThoseOfTheScoresBeforeIt) {
  Fork(Request("t", 500));

  const std::vector<float> scores = FakeEngine::Scores(First(500));
  double sum = 0;
  for (size_t i = 1; i < scores.size(); ++i) sum += scores[i];
  EXPECT_EQ(loop_.Info("t").scored_tokens, 499u);
  EXPECT_DOUBLE_EQ(loop_.Info("t").sum_log_prob, sum);
}

TEST_F(ForkTest, AtTheStartIsAnEmptySession) {
  ASSERT_TRUE(Fork(Request("t", 0)).ok());
  EXPECT_EQ(loop_.Info("t").position, 0u);
  EXPECT_EQ(loop_.Info("t").scored_tokens, 0u);
  const auto first = loop_.Append("t", 0, {1, 2}, true);
  loop_.Run();
  EXPECT_TRUE(first.ok());
}

TEST_F(ForkTest, RebuildHoldsUpNobodyElse) {
  const auto fork = loop_.Fork(Request("t", 19'000));
  loop_.RunOnce();
  const auto other = loop_.Append("s", 20'000, {1, 2, 3});
  for (int i = 0; i < 3; ++i) loop_.RunOnce();

  EXPECT_TRUE(other.ok());
  EXPECT_FALSE(fork.done());
  loop_.Run();
  EXPECT_TRUE(fork.ok());
}

TEST_F(ForkTest, AppendsToACopyThatIsBeingRebuiltWaitForIt) {
  const auto fork = loop_.Fork(Request("t", 9'000));
  loop_.RunOnce();
  const auto append = loop_.Append("t", 9'000, {1, 2, 3});
  const auto overlap = loop_.Append("t", 8'998, {all_[8'998], all_[8'999], 1});
  loop_.Run();

  EXPECT_TRUE(fork.ok());
  ASSERT_TRUE(append.ok());
  EXPECT_TRUE(overlap.ok() && overlap->duplicate);
  Tokens tokens = First(9'000);
  tokens.insert(tokens.end(), {1, 2, 3});
  ExpectState("t", tokens);
}

TEST_F(ForkTest, AtAnAcceptedPositionWaitsUntilItIsInTheState) {
  Tokens more = Count(5000);
  loop_.Append("s", 20'000, more);
  loop_.RunOnce();
  const int64_t steps = loop_.engine().steps();
  const auto fork = loop_.Fork(Request("t", 23'333));
  const auto absent = loop_.Fork(Request("u"));
  loop_.RunOnce();
  EXPECT_FALSE(fork.done());
  ASSERT_TRUE(absent.ok());
  EXPECT_EQ(absent->position, 20'512u);
  loop_.Run();

  ASSERT_TRUE(fork.ok());
  EXPECT_EQ(fork->position, 23'333u);
  // A copy, not a rebuild: one step more for the cut, at most.
  EXPECT_LE(loop_.engine().steps() - steps, 5000 / 512 + 1);
  Tokens tokens = all_;
  tokens.insert(tokens.end(), more.begin(), more.begin() + 3'333);
  ExpectState("t", tokens);
}

TEST_F(ForkTest, WaitsForTheCommitOfItsTokens) {
  loop_.store().Hold();
  loop_.Append("s", 20'000, {1, 2, 3});
  loop_.Run();
  const auto fork = loop_.Fork(Request("t"));
  const auto behind = loop_.Append("s", 20'003, {4});
  loop_.Run();
  EXPECT_FALSE(fork.done());
  const int64_t steps = loop_.engine().steps();
  loop_.store().Release();
  loop_.Run();

  // The state was held where it was: a copy, and the step of the one behind.
  EXPECT_EQ(loop_.engine().steps() - steps, 1);

  ASSERT_TRUE(fork.ok());
  EXPECT_TRUE(behind.ok());
  EXPECT_EQ(fork->position, 20'003u);
  Tokens tokens = all_;
  tokens.insert(tokens.end(), {1, 2, 3});
  ExpectState("t", tokens);
}

TEST_F(ForkTest, InAGenerationIsTheStateBetweenTwoSteps) {
  GenerateRequest request;
  request.session_id = "s";
  request.max_tokens = 50;
  request.want_log_probs = true;
  const Generated generated = loop_.Generate(std::move(request));
  for (int i = 0; i < 10; ++i) loop_.RunOnce();
  const auto fork = loop_.Fork(Request("t"));
  loop_.RunOnce();

  ASSERT_TRUE(fork.ok());
  const SessionInfo copy = loop_.Info("t");
  EXPECT_EQ(copy.position, copy.applied_position);
  EXPECT_EQ(copy.scored_tokens, 999 + copy.position - 20'000);
  loop_.Run();
  ASSERT_TRUE(generated.end.ok());
  Tokens tokens = all_;
  for (size_t i = 0; tokens.size() < fork->position; ++i) {
    tokens.push_back(generated.tokens()[i]);
  }
  ExpectState("t", tokens);
}

TEST_F(ForkTest, SeedIsTheOriginalsUnlessGiven) {
  ForkRequest request = Request("t");
  request.seed = 99;
  Fork(std::move(request));
  Fork(Request("u"));

  EXPECT_EQ(loop_.Info("t").seed, 99u);
  EXPECT_EQ(loop_.Info("u").seed, 7u);
}

TEST_F(ForkTest, IssuesAnId) {
  const auto fork = Fork(Request(""));

  ASSERT_TRUE(fork.ok());
  EXPECT_EQ(fork->session_id.size(), 32u);
  EXPECT_EQ(loop_.Info(fork->session_id).position, 20'000u);
}

TEST_F(ForkTest, SameRequestIdReturnsTheFork) {
  const auto first = Fork(Request("", {}, "r"));
  loop_.Append("s", 20'000, {1});
  const auto again = Fork(Request("", {}, "r"));
  const auto other = Fork(Request("t", {}, "r"));

  ASSERT_TRUE(first.ok() && again.ok());
  EXPECT_EQ(again->session_id, first->session_id);
  EXPECT_EQ(again->position, 20'000u);
  EXPECT_TRUE(again->duplicate);
  EXPECT_EQ(other.reason(), Reason::kSessionExists);
  EXPECT_EQ(loop_.engine().held().size(), 2u);
}

TEST_F(ForkTest, SameRequestIdJoinsAForkUnderWay) {
  const auto first = loop_.Fork(Request("t", 10'000, "r"));
  const auto waiting = loop_.Fork(Request("t", 10'000, "r"));
  loop_.RunOnce();
  const auto rebuilding = loop_.Fork(Request("t", 10'000, "r"));
  loop_.RunOnce();
  EXPECT_FALSE(rebuilding.done());
  loop_.Run();

  ASSERT_TRUE(first.ok() && waiting.ok() && rebuilding.ok());
  EXPECT_FALSE(first->duplicate);
  EXPECT_TRUE(waiting->duplicate);
  EXPECT_TRUE(rebuilding->duplicate);
  EXPECT_EQ(loop_.engine().held().size(), 2u);
}

TEST_F(ForkTest, BeyondTheEndIsAGap) {
  const auto gap = Fork(Request("t", 20'001));
  EXPECT_EQ(gap.reason(), Reason::kPositionGap);
  EXPECT_THAT(ValuesOf(gap.status()), Contains(Pair("position", "20000")));
  EXPECT_EQ(Fork(Request("t", ~uint64_t{0})).reason(), Reason::kPositionGap);
  EXPECT_EQ(loop_.engine().held().size(), 1u);
}

TEST_F(ForkTest, OntoAnOpenSessionOrItselfIsRefused) {
  loop_.Open("t");
  EXPECT_EQ(Fork(Request("t")).reason(), Reason::kSessionExists);
  EXPECT_EQ(Fork(Request("s")).reason(), Reason::kSessionExists);
  EXPECT_EQ(Fork(Request("s", 5)).reason(), Reason::kSessionExists);
}

TEST_F(ForkTest, BadOnesAreRefused) {
  ForkRequest unknown = Request("t");
  unknown.session_id = "nobody";
  ForkRequest malformed = Request("t");
  malformed.session_id = "No";
  EXPECT_EQ(Fork(std::move(unknown)).reason(), Reason::kSessionNotFound);
  EXPECT_EQ(Fork(std::move(malformed)).reason(), Reason::kBadId);
  EXPECT_EQ(Fork(Request("T")).reason(), Reason::kBadId);
  EXPECT_EQ(Fork(Request("t", {}, std::string(129, 'r'))).reason(),
            Reason::kBadValue);
}

TEST_F(ForkTest, FullPoolIsSaidAndChangesNothing) {
  for (int i = 0; i < 7; ++i) {
    ASSERT_TRUE(Fork(Request("t" + std::to_string(i))).ok());
  }
  const auto full = Fork(Request("u", {}, "r"));

  EXPECT_EQ(full.reason(), Reason::kStatePoolExhausted);
  EXPECT_EQ(loop_.store().logs(), 8);
  loop_.Close("t0");
  EXPECT_TRUE(Fork(Request("u", {}, "r")).ok());
}

TEST_F(ForkTest, CloseOfTheOriginalEndsAWaitingFork) {
  loop_.Append("s", 20'000, Count(5000));
  loop_.RunOnce();
  const auto fork = loop_.Fork(Request("t", 24'000));
  loop_.RunOnce();
  loop_.Close("s");
  loop_.Run();

  EXPECT_EQ(fork.reason(), Reason::kSessionNotFound);
  EXPECT_TRUE(loop_.engine().held().empty());
}

TEST_F(ForkTest, CloseOfTheCopyEndsItsRebuildAndItMayBeMadeAgain) {
  const auto fork = loop_.Fork(Request("t", 15'000, "r"));
  loop_.RunOnce();
  loop_.Close("t");
  loop_.Run();
  EXPECT_EQ(fork.reason(), Reason::kSessionNotFound);
  EXPECT_EQ(loop_.engine().held().size(), 1u);

  const auto again = Fork(Request("t", 15'000, "r"));
  ASSERT_TRUE(again.ok());
  EXPECT_FALSE(again->duplicate);
  ExpectState("t", First(15'000));
}

TEST_F(ForkTest, RebuildGoesOnWhenTheOriginalIsClosed) {
  const auto fork = loop_.Fork(Request("t", 15'000));
  loop_.RunOnce();
  loop_.Close("s");
  loop_.Run();

  EXPECT_TRUE(fork.ok());
  ExpectState("t", First(15'000));
}

TEST_F(ForkTest, FailedRebuildLeavesNothing) {
  loop_.store().FailAt(FakeStore::Point::kRead, 2);
  const auto fork = Fork(Request("t", 15'000, "r"));

  EXPECT_EQ(fork.reason(), Reason::kStoreFault);
  EXPECT_EQ(loop_.engine().held().size(), 1u);
  EXPECT_EQ(loop_.store().logs(), 1);
  EXPECT_TRUE(Fork(Request("t", 15'000, "r")).ok());
}

}  // namespace
}  // namespace weir::service
