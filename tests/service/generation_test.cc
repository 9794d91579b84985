// SPDX-License-Identifier: Apache-2.0
//
// Generations: appends made by the server.
#include <string>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "service/request_check.h"
#include "tests/support/manual_step_loop.h"

namespace weir::service {
namespace {

using support::FakeEngine;
using support::FakeStore;
using support::Generated;
using support::ManualStepLoop;
using support::Reply;
using support::Tokens;
using testing::Each;
using testing::ElementsAre;
using testing::SizeIs;

Tokens Text(std::string_view text) { return Tokens(text.begin(), text.end()); }

// Shows each token as a letter; holds one back; stops at the tokens whose bytes
// the first stop string has.
class LetterSink final : public TextSink {
 public:
  static std::string Stop(const Tokens& tokens) {
    return std::string(tokens.begin(), tokens.end());
  }
  void StopAt(const std::vector<std::string>& stop_strings) override {
    for (const char c : stop_strings.empty() ? "" : stop_strings.front()) {
      stop_tokens_.push_back(static_cast<uint8_t>(c));
    }
  }
  std::string Push(uint32_t token) override {
    seen_.push_back(token);
    if (!stop_tokens_.empty() && seen_.size() >= stop_tokens_.size() &&
        std::equal(stop_tokens_.begin(),
                   stop_tokens_.end(),
                   seen_.end() - stop_tokens_.size())) {
      stop_ = "STOP";
      return "";
    }
    return std::exchange(held_, Letter(token));
  }
  std::string Flush() override { return std::exchange(held_, ""); }
  const std::string* stop() const override {
    return stop_.empty() ? nullptr : &stop_;
  }
  static std::string Letter(uint32_t token) {
    return std::string(1, static_cast<char>('a' + token % 26));
  }

 private:
  Tokens stop_tokens_;
  Tokens seen_;
  std::string held_;
  std::string stop_;
};

class GenerationTest : public testing::Test {
 protected:
  void SetUp() override {
    const auto opened = loop_.Open(OpenRequest{.session_id = "s", .seed = 7});
    const auto appended = loop_.Append("s", 0, prompt_);
    loop_.Run();
    ASSERT_TRUE(opened.ok() && appended.ok());
  }
  static GenerateRequest Request(uint32_t max_tokens,
                                 std::string request_id = "") {
    GenerateRequest request;
    request.session_id = "s";
    request.max_tokens = max_tokens;
    request.request_id = std::move(request_id);
    return request;
  }
  Generated Generate(GenerateRequest request) {
    Generated generated = loop_.Generate(std::move(request));
    loop_.Run();
    return generated;
  }
  // What a session of this seed and prompt must draw.
  Tokens Wanted(size_t count,
                const SamplingRequest& sampling = {},
                uint64_t seed = 7) {
    Tokens all = prompt_;
    for (size_t i = 0; i < count; ++i) {
      engine::Sampling draw = ToSampling(sampling);
      draw.seed = sampling.seed.value_or(seed);
      draw.position = all.size();
      const size_t recent = std::min<size_t>(all.size(), 1024);
      if (draw.repetition_penalty != 1) {
        draw.recent = std::span(all).last(recent);
      }
      all.push_back(loop_.engine().Sample(all, draw).token);
    }
    return Tokens(all.begin() + prompt_.size(), all.end());
  }
  void ExpectState(const Tokens& generated) {
    Tokens all = prompt_;
    all.insert(all.end(), generated.begin(), generated.end());
    const std::vector<int32_t> held = loop_.engine().held();
    ASSERT_THAT(held, SizeIs(1));
    EXPECT_EQ(loop_.engine().hash(held[0]), FakeEngine::Hash(all));
    const SessionInfo info = loop_.Info("s");
    EXPECT_EQ(info.position, all.size());
    EXPECT_EQ(info.applied_position, all.size());
    EXPECT_FALSE(info.generating);
    const auto log = loop_.Append("s", 0, all);
    loop_.Run();
    EXPECT_TRUE(log.ok() && log->duplicate);
  }

  const Tokens prompt_ = Text("once upon a time");
  ManualStepLoop loop_;
};

TEST_F(GenerationTest, EndsAfterMaxTokensWithEveryTokenConsumed) {
  const Generated generated = Generate(Request(10));

  ASSERT_TRUE(generated.end.ok());
  EXPECT_EQ(generated.tokens(), Wanted(10));
  EXPECT_EQ(generated.finish(), FinishReason::kLength);
  EXPECT_EQ(generated.events->back().max_tokens, 10u);
  EXPECT_EQ(generated.events->back().position, prompt_.size() + 10);
  for (size_t i = 0; i + 1 < generated.events->size(); ++i) {
    EXPECT_EQ((*generated.events)[i].finish, FinishReason::kNone);
    EXPECT_EQ((*generated.events)[i].position, prompt_.size() + i + 1);
    EXPECT_FALSE((*generated.events)[i].duplicate);
  }
  EXPECT_EQ(loop_.observer().generated, 10);
  EXPECT_EQ(loop_.observer().generations, 1);
  EXPECT_EQ(loop_.observer().reused, prompt_.size());
  ExpectState(Wanted(10));
}

TEST_F(GenerationTest, EachTokenIsLoggedBeforeItIsSent) {
  loop_.store().Hold();
  const Generated generated = loop_.Generate(Request(3));
  loop_.Run();
  EXPECT_THAT(*generated.events, SizeIs(0));
  EXPECT_EQ(loop_.store().held(), 1u);

  loop_.store().ReleaseOne();
  loop_.Run();
  EXPECT_THAT(*generated.events, SizeIs(1));
  EXPECT_EQ(loop_.store().held(), 1u);

  loop_.store().Release();
  loop_.Run();
  EXPECT_TRUE(generated.end.ok());
  ExpectState(Wanted(3));
}

TEST_F(GenerationTest, OfNoTokensIsOneEmptyEvent) {
  const Generated generated = Generate(Request(0));

  ASSERT_TRUE(generated.end.ok());
  ASSERT_THAT(*generated.events, SizeIs(1));
  EXPECT_TRUE(generated.tokens().empty());
  EXPECT_EQ(generated.finish(), FinishReason::kLength);
  EXPECT_EQ(generated.events->back().position, prompt_.size());
  ExpectState({});
}

TEST_F(GenerationTest, MaxTokensIsCutToTheLimitAndSaysSo) {
  ManualStepLoop small({.engine = {}, .limits = {.generate_tokens_max = 5}});
  small.Open("s");
  small.Append("s", 0, {1});
  small.Run();
  const Generated generated = small.Generate(Request(~0u));
  small.Run();

  ASSERT_TRUE(generated.end.ok());
  EXPECT_THAT(generated.tokens(), SizeIs(5));
  EXPECT_EQ(generated.events->back().max_tokens, 5u);
}

TEST_F(GenerationTest, SessionsEndIsTheEndOfItsGeneration) {
  ManualStepLoop small({.engine = {}, .limits = {.session_tokens_max = 8}});
  small.Open("s");
  small.Append("s", 0, {1, 2, 3, 4, 5});
  small.Run();
  const Generated generated = small.Generate(Request(100));
  small.Run();
  const Generated none = small.Generate(Request(1));
  small.Run();

  ASSERT_TRUE(generated.end.ok());
  EXPECT_THAT(generated.tokens(), SizeIs(3));
  EXPECT_EQ(none.end.reason(), Reason::kSessionLength);
}

TEST_F(GenerationTest, ModelsLastPositionIsTheEndOfItsGeneration) {
  ManualStepLoop small({.engine = {.positions_max = 8}, .limits = {}});
  small.Open("s");
  small.Append("s", 0, {1, 2, 3, 4, 5});
  small.Run();
  const Generated generated = small.Generate(Request(100));
  small.Run();
  const Generated none = small.Generate(Request(1));
  small.Run();

  ASSERT_TRUE(generated.end.ok());
  EXPECT_THAT(generated.tokens(), SizeIs(3));
  EXPECT_EQ(none.end.reason(), Reason::kSessionLength);
}

TEST_F(GenerationTest, SeedOfTheRequestGoesBeforeTheSessions) {
  GenerateRequest request = Request(8);
  request.sampling.seed = 99;
  const Generated generated = Generate(std::move(request));

  EXPECT_EQ(generated.tokens(), Wanted(8, {.seed = 99}));
  EXPECT_NE(generated.tokens(), Wanted(8));
}

TEST_F(GenerationTest, SampleDependsOnSeedAndPositionNotOnTheCall) {
  const Generated first = Generate(Request(3));
  const Generated second = Generate(Request(4));

  Tokens all = first.tokens();
  for (const uint32_t token : second.tokens()) all.push_back(token);
  EXPECT_EQ(all, Wanted(7));
}

TEST_F(GenerationTest, StopTokenEndsItAndIsConsumed) {
  const Tokens wanted = Wanted(20);
  GenerateRequest request = Request(20);
  request.stop_tokens = {wanted[4]};
  const Generated generated = Generate(std::move(request));

  const size_t stop =
      std::find(wanted.begin(), wanted.end(), wanted[4]) - wanted.begin();
  const Tokens until(wanted.begin(), wanted.begin() + stop + 1);
  EXPECT_EQ(generated.tokens(), until);
  EXPECT_EQ(generated.finish(), FinishReason::kStop);
  ExpectState(until);
}

TEST_F(GenerationTest, StopStringEndsItAndItsTokensAreConsumed) {
  const Tokens wanted = Wanted(20);
  GenerateRequest request = Request(20);
  request.text = std::make_unique<LetterSink>();
  request.stop_strings = {LetterSink::Stop({wanted[5], wanted[6]})};
  const Generated generated = Generate(std::move(request));

  const Tokens until(wanted.begin(), wanted.begin() + 7);
  EXPECT_EQ(generated.tokens(), until);
  EXPECT_EQ(generated.finish(), FinishReason::kStop);
  EXPECT_EQ(generated.events->back().stop_string, "STOP");
  ExpectState(until);
}

TEST_F(GenerationTest, TextHeldBackComesWithTheLastEvent) {
  GenerateRequest request = Request(6);
  request.text = std::make_unique<LetterSink>();
  const Generated generated = Generate(std::move(request));

  std::string wanted;
  for (const uint32_t token : Wanted(6)) wanted += LetterSink::Letter(token);
  EXPECT_EQ(generated.text(), wanted);
  EXPECT_EQ(generated.events->front().text, "");
}

TEST_F(GenerationTest, LogProbsAreStoredAndCountInTheTotals) {
  GenerateRequest request = Request(5);
  request.want_log_probs = true;
  const Generated generated = Generate(std::move(request));

  Tokens all = prompt_;
  for (const uint32_t token : generated.tokens()) all.push_back(token);
  const std::vector<float> scores = FakeEngine::Scores(all);
  const std::vector<float> wanted(scores.begin() + prompt_.size(),
                                  scores.end());
  EXPECT_EQ(generated.log_probs(), wanted);
  const SessionInfo info = loop_.Info("s");
  EXPECT_EQ(info.scored_tokens, 5u);
  double sum = 0;
  for (const float score : wanted) sum += score;
  EXPECT_DOUBLE_EQ(info.sum_log_prob, sum);
  const auto again =
      loop_.Append("s", prompt_.size(), generated.tokens(), true);
  loop_.Run();
  EXPECT_EQ(again->scores, wanted);
  EXPECT_EQ(loop_.Info("s").scored_tokens, 5u);
}

TEST_F(GenerationTest, PenaltyLooksBackOver1024TokensOfTheLog) {
  Tokens long_prompt;
  for (uint32_t i = 0; i < 3000; ++i) long_prompt.push_back(i * 31 % 256);
  loop_.Append("s", prompt_.size(), long_prompt);
  loop_.Run();
  Tokens all = prompt_;
  all.insert(all.end(), long_prompt.begin(), long_prompt.end());
  GenerateRequest request = Request(1100);
  request.sampling.repetition_penalty = 1.5f;
  const Generated generated = Generate(std::move(request));

  Tokens wanted;
  for (int i = 0; i < 1100; ++i) {
    engine::Sampling draw;
    draw.repetition_penalty = 1.5f;
    draw.seed = 7;
    draw.position = all.size();
    draw.recent = std::span(all).last(1024);
    wanted.push_back(loop_.engine().Sample(all, draw).token);
    all.push_back(wanted.back());
  }
  EXPECT_EQ(generated.tokens(), wanted);
}

TEST_F(GenerationTest, OfAnEmptySessionIsRefused) {
  loop_.Open("empty");
  GenerateRequest request = Request(5);
  request.session_id = "empty";
  EXPECT_EQ(Generate(std::move(request)).end.reason(), Reason::kEmptySession);
}

TEST_F(GenerationTest, PositionMustBeTheEnd) {
  GenerateRequest behind = Request(5);
  behind.expected_position = 3;
  GenerateRequest ahead = Request(5);
  ahead.expected_position = 100;
  GenerateRequest last = Request(5);
  last.expected_position = ~uint64_t{0};
  GenerateRequest at = Request(5);
  at.expected_position = prompt_.size();

  EXPECT_EQ(Generate(std::move(behind)).end.reason(),
            Reason::kPositionConflict);
  EXPECT_EQ(Generate(std::move(ahead)).end.reason(), Reason::kPositionGap);
  EXPECT_EQ(Generate(std::move(last)).end.reason(), Reason::kPositionGap);
  EXPECT_TRUE(Generate(std::move(at)).end.ok());
}

TEST_F(GenerationTest, BadRequestsAreRefused) {
  GenerateRequest sampling = Request(5);
  sampling.sampling.top_p = 0;
  GenerateRequest stop = Request(5);
  stop.stop_tokens = {256};
  GenerateRequest durable = Request(5);
  durable.durability = Durability::kLocal;
  GenerateRequest unknown = Request(5);
  unknown.session_id = "nobody";
  GenerateRequest id = Request(5, std::string(129, 'x'));

  EXPECT_EQ(Generate(std::move(sampling)).end.reason(), Reason::kBadSampling);
  EXPECT_EQ(Generate(std::move(stop)).end.reason(), Reason::kBadSampling);
  EXPECT_EQ(Generate(std::move(durable)).end.reason(),
            Reason::kDurabilityUnavailable);
  EXPECT_EQ(Generate(std::move(unknown)).end.reason(),
            Reason::kSessionNotFound);
  EXPECT_EQ(Generate(std::move(id)).end.reason(), Reason::kBadValue);
  ExpectState({});
}

TEST_F(GenerationTest, SessionIsBusyButForWhatLiesBehindIt) {
  const Generated running = loop_.Generate(Request(50));
  loop_.RunOnce();
  loop_.RunOnce();

  const auto append = loop_.Append("s", prompt_.size() + 1, {1});
  const auto into = loop_.Append("s", prompt_.size(), {1});
  const auto ahead = loop_.Append("s", 1000, {1});
  const Generated second = loop_.Generate(Request(5));
  const auto behind = loop_.Append("s", 0, prompt_);
  const auto conflict = loop_.Append("s", 0, {1});
  const auto empty = loop_.Append("s", 0, {});
  loop_.RunOnce();

  EXPECT_EQ(append.reason(), Reason::kSessionBusy);
  EXPECT_EQ(into.reason(), Reason::kSessionBusy);
  EXPECT_EQ(ahead.reason(), Reason::kSessionBusy);
  EXPECT_EQ(second.end.reason(), Reason::kSessionBusy);
  EXPECT_TRUE(behind.ok() && behind->duplicate);
  EXPECT_EQ(conflict.reason(), Reason::kPositionConflict);
  EXPECT_TRUE(empty.ok());
  EXPECT_TRUE(loop_.Get("s").status().code() == absl::StatusCode::kUnknown);
  loop_.Run();
  EXPECT_TRUE(running.end.ok());
  ExpectState(Wanted(50));
}

TEST_F(GenerationTest, WaitsForNoAppendButIsRefused) {
  loop_.Append("s", prompt_.size(), Tokens(2000, 1));
  const Generated generated = loop_.Generate(Request(5));
  loop_.Run();

  EXPECT_EQ(generated.end.reason(), Reason::kSessionBusy);
}

TEST_F(GenerationTest, SessionIsFreeWhenTheLastEventHasBeenSent) {
  bool checked = false;
  GenerateRequest request = Request(2);
  request.on_event = [&](const GenerateEvent& event) {
    checked = event.finish != FinishReason::kNone;
  };
  Generated generated = loop_.Generate(std::move(request));
  while (!checked) loop_.RunOnce();
  const auto append = loop_.Append("s", prompt_.size() + 2, {1});
  loop_.Run();

  EXPECT_TRUE(append.ok());
}

TEST_F(GenerationTest, CancelEndsItAfterTheTokenInHand) {
  const Generated generated = loop_.Generate(Request(1000));
  for (int i = 0; i < 5; ++i) loop_.RunOnce();
  generated.call->cancelled = true;
  loop_.Run();

  EXPECT_EQ(generated.end.reason(), Reason::kCancelled);
  EXPECT_LE(generated.tokens().size(), 6u);
  ExpectState(Wanted(generated.tokens().size()));
}

TEST_F(GenerationTest, CancelAtEveryPhaseLeavesLogAndStateTogether) {
  for (int steps = 0; steps < 12; ++steps) {
    ManualStepLoop loop;
    loop.Open(OpenRequest{.session_id = "s", .seed = 7});
    loop.Append("s", 0, prompt_);
    loop.Run();
    if (steps % 2 == 1) loop.store().Hold();
    GenerateRequest request = Request(1000);
    request.sampling.repetition_penalty = 1.2f;
    const Generated generated = loop.Generate(std::move(request));
    for (int i = 0; i < steps / 2; ++i) {
      loop.RunOnce();
      if (loop.store().held() > 0) loop.store().ReleaseOne();
    }
    generated.call->cancelled = true;
    loop.Run();
    loop.store().Release();
    loop.Run();

    EXPECT_EQ(generated.end.reason(), Reason::kCancelled) << steps;
    const SessionInfo info = loop.Info("s");
    EXPECT_EQ(info.position, info.applied_position) << steps;
    Tokens all = prompt_;
    for (const uint32_t token : generated.tokens()) all.push_back(token);
    EXPECT_EQ(info.position, all.size()) << steps;
    EXPECT_EQ(loop.engine().hash(0), FakeEngine::Hash(all)) << steps;
  }
}

TEST_F(GenerationTest, CancelledBeforeItBeginsDrawsNothing) {
  const auto call = std::make_shared<CallState>();
  call->cancelled = true;
  const Generated generated = loop_.Generate(
      Request(5), {.deadline = absl::InfiniteDuration(), .call = call});
  const int64_t steps = loop_.engine().steps();
  loop_.RunOnce();

  EXPECT_EQ(generated.end.reason(), Reason::kCancelled);
  EXPECT_EQ(generated.end.status().message(),
            "cancelled before it was accepted");
  EXPECT_EQ(loop_.engine().steps(), steps);
  ExpectState({});
}

TEST_F(GenerationTest, LateGenerationIsDropped) {
  const Generated generated = loop_.Generate(
      Request(5),
      {.deadline = loop_.clock().Now() + absl::Seconds(1), .call = nullptr});
  loop_.clock().Advance(absl::Seconds(2));
  loop_.Run();

  EXPECT_EQ(generated.end.reason(), Reason::kDeadlineInQueue);
  ExpectState({});
}

class SlowConsumerTest : public GenerationTest {
 protected:
  void SetUp() override {
    GenerationTest::SetUp();
    call_ = std::make_shared<CallState>();
    GenerateRequest request = Request(1000, "slow");
    request.on_event = [this](const GenerateEvent& event) {
      ++call_->unsent;
      for (const uint32_t token : event.tokens) tokens_.push_back(token);
    };
    generated_ =
        loop_.Generate(std::move(request),
                       {.deadline = absl::InfiniteDuration(), .call = call_});
    loop_.Run();
  }
  std::shared_ptr<CallState> call_;
  Tokens tokens_;
  Generated generated_;
};

TEST_F(SlowConsumerTest, PausesAtTheLimitAndGoesOnWhenItReads) {
  EXPECT_THAT(tokens_, SizeIs(64));
  EXPECT_FALSE(loop_.RunOnce());

  call_->unsent -= 10;
  loop_.loop().Wake();
  loop_.Run();

  EXPECT_THAT(tokens_, SizeIs(74));
  EXPECT_FALSE(generated_.end.done());
}

// It is told to pause for 63 unread tokens and one that is held for it; no read
// of 63 wakes the loop.
TEST_F(GenerationTest, AReadWhileTheLastTokenIsHeldIsNotMissed) {
  auto call = std::make_shared<CallState>();
  Tokens tokens;
  GenerateRequest request = Request(1000, "slow");
  request.on_event = [&](const GenerateEvent& event) {
    tokens.insert(tokens.end(), event.tokens.begin(), event.tokens.end());
    ++call->unsent;
    if (tokens.size() == 64) call->unsent -= 10;
  };
  const Generated generated = loop_.Generate(
      std::move(request), {.deadline = absl::InfiniteDuration(), .call = call});
  loop_.Run();

  EXPECT_THAT(tokens, SizeIs(74));
  EXPECT_FALSE(generated.end.done());
}

TEST_F(SlowConsumerTest, EndsAfterItsTimeWithTheTokensKept) {
  EXPECT_EQ(loop_.loop().NextTimer(), loop_.clock().Now() + absl::Seconds(30));
  loop_.clock().Advance(absl::Seconds(29));
  loop_.Run();
  EXPECT_FALSE(generated_.end.done());
  loop_.clock().Advance(absl::Seconds(1));
  loop_.Run();

  EXPECT_EQ(generated_.end.reason(), Reason::kSlowConsumer);
  EXPECT_THAT(tokens_, SizeIs(64));
  ExpectState(Wanted(64));
}

TEST_F(SlowConsumerTest, OneThatHasBeenCountedElsewhereIsNotCountedAgain) {
  call_->slow = true;
  call_->cancelled = true;
  loop_.Run();

  EXPECT_EQ(generated_.end.reason(), Reason::kCancelled);
  EXPECT_EQ(loop_.observer().rejected(Reason::kCancelled), 0);
}

TEST_F(SlowConsumerTest, AnyProgressStartsItsTimeAgain) {
  for (int i = 0; i < 5; ++i) {
    loop_.clock().Advance(absl::Seconds(29));
    call_->unsent -= 1;
    loop_.loop().Wake();
    loop_.Run();
  }
  EXPECT_FALSE(generated_.end.done());
}

TEST_F(SlowConsumerTest, SlowOneHoldsUpNobodyElse) {
  loop_.Open("t");
  const auto other = loop_.Append("t", 0, Text("hello"));
  loop_.Run();
  EXPECT_TRUE(other.ok());
}

TEST_F(SlowConsumerTest, ItsTokensAreSentAgain) {
  loop_.clock().Advance(absl::Seconds(30));
  loop_.Run();
  const Generated again = Generate(Request(1000, "slow"));

  ASSERT_TRUE(again.end.ok());
  EXPECT_EQ(again.tokens(), Wanted(1000));
}

class ResumeTest : public GenerationTest {
 protected:
  // A generation of 100 tokens that is cut off after some.
  size_t CutOff(GenerateRequest request) {
    const Generated cut = loop_.Generate(std::move(request));
    for (int i = 0; i < 20; ++i) loop_.RunOnce();
    cut.call->cancelled = true;
    loop_.Run();
    return cut.tokens().size();
  }
};

TEST_F(ResumeTest, SendsTheLoggedTokensAndGoesOn) {
  GenerateRequest request = Request(100, "r");
  request.want_log_probs = true;
  const size_t before = CutOff(std::move(request));
  ASSERT_GT(before, 5u);
  ASSERT_LT(before, 100u);

  // The parameters are those of the first call.
  GenerateRequest again = Request(3, "r");
  again.sampling.seed = 12345;
  const Generated resumed = Generate(std::move(again));

  ASSERT_TRUE(resumed.end.ok());
  EXPECT_EQ(resumed.tokens(), Wanted(100));
  EXPECT_EQ(resumed.finish(), FinishReason::kLength);
  EXPECT_EQ(resumed.events->back().max_tokens, 100u);
  EXPECT_TRUE(resumed.events->front().duplicate);
  EXPECT_THAT(resumed.events->front().tokens, SizeIs(before));
  EXPECT_FALSE(resumed.events->back().duplicate);
  EXPECT_THAT(resumed.log_probs(), SizeIs(100));
  ExpectState(Wanted(100));
}

TEST_F(ResumeTest, SendsFromTheExpectedPosition) {
  const size_t before = CutOff(Request(100, "r"));
  GenerateRequest again = Request(100, "r");
  again.expected_position = prompt_.size() + before - 2;
  const Generated resumed = Generate(std::move(again));

  const Tokens all = Wanted(100);
  EXPECT_EQ(resumed.tokens(), Tokens(all.begin() + before - 2, all.end()));
}

TEST_F(ResumeTest, TextGoesOnInTheMiddleOfACharacter) {
  GenerateRequest request = Request(30, "r");
  request.text = std::make_unique<LetterSink>();
  const size_t before = CutOff(std::move(request));
  GenerateRequest again = Request(30, "r");
  again.text = std::make_unique<LetterSink>();
  again.expected_position = prompt_.size() + before;
  const Generated resumed = Generate(std::move(again));

  std::string wanted;
  for (const uint32_t token : Wanted(30)) wanted += LetterSink::Letter(token);
  EXPECT_EQ(resumed.text(), wanted.substr(before - 1));
}

TEST_F(ResumeTest, FinishedOneIsSentAgainWithItsEnd) {
  const Generated first = Generate(Request(10, "r"));
  const Generated again = Generate(Request(10, "r"));

  EXPECT_EQ(again.tokens(), first.tokens());
  EXPECT_EQ(again.finish(), FinishReason::kLength);
  ExpectState(Wanted(10));
}

TEST_F(ResumeTest, OneThatWasAppendedToIsInterrupted) {
  const size_t before = CutOff(Request(100, "r"));
  const auto append = loop_.Append("s", prompt_.size() + before, {1, 2, 3});
  loop_.Run();
  ASSERT_TRUE(append.ok());
  const Generated again = Generate(Request(100, "r"));

  ASSERT_TRUE(again.end.ok());
  EXPECT_THAT(again.tokens(), SizeIs(before));
  EXPECT_EQ(again.finish(), FinishReason::kInterrupted);
  EXPECT_EQ(loop_.Info("s").position, prompt_.size() + before + 3);
}

TEST_F(ResumeTest, FinishedOneKeepsItsEndAfterAppends) {
  Generate(Request(10, "r"));
  loop_.Append("s", prompt_.size() + 10, {1, 2, 3});
  loop_.Run();
  const Generated again = Generate(Request(10, "r"));

  EXPECT_EQ(again.tokens(), Wanted(10));
  EXPECT_EQ(again.finish(), FinishReason::kLength);
}

TEST_F(ResumeTest, AnotherRequestIdBehindTheEndIsAConflict) {
  const size_t before = CutOff(Request(100, "r"));
  ASSERT_GT(before, 0u);
  GenerateRequest other = Request(100, "other");
  other.expected_position = prompt_.size();
  GenerateRequest before_it = Request(100, "r");
  before_it.expected_position = prompt_.size() - 1;
  GenerateRequest beyond = Request(100, "r");
  beyond.expected_position = prompt_.size() + before + 1;

  EXPECT_EQ(Generate(std::move(other)).end.reason(), Reason::kPositionConflict);
  EXPECT_EQ(Generate(std::move(before_it)).end.reason(),
            Reason::kPositionConflict);
  EXPECT_EQ(Generate(std::move(beyond)).end.reason(), Reason::kPositionGap);
}

TEST_F(ResumeTest, StopStringOfTheFirstCallIsFoundAcrossTheCut) {
  const Tokens wanted = Wanted(100);
  GenerateRequest request = Request(100, "r");
  request.text = std::make_unique<LetterSink>();
  request.stop_strings = {LetterSink::Stop({wanted[9], wanted[10]})};
  const Generated cut = loop_.Generate(std::move(request));
  // The tenth is drawn when the ninth is passed on.
  while (cut.tokens().size() < 9) loop_.RunOnce();
  cut.call->cancelled = true;
  loop_.Run();
  ASSERT_THAT(cut.tokens(), SizeIs(10));

  GenerateRequest again = Request(100, "r");
  again.text = std::make_unique<LetterSink>();
  again.expected_position = prompt_.size() + 10;
  const Generated resumed = Generate(std::move(again));

  EXPECT_EQ(resumed.tokens(), Tokens{wanted[10]});
  EXPECT_EQ(resumed.finish(), FinishReason::kStop);
  EXPECT_EQ(resumed.events->back().stop_string, "STOP");
}

TEST_F(ResumeTest, FewerAreRememberedIfTheirStopStringsAreLong) {
  const auto request = [](uint32_t max_tokens, const std::string& id) {
    GenerateRequest request = Request(max_tokens, id);
    request.stop_strings = std::vector<std::string>(16, std::string(256, 'x'));
    return request;
  };
  Generate(request(1, "first"));
  for (int i = 0; i < 15; ++i) Generate(request(0, "n" + std::to_string(i)));
  EXPECT_EQ(Generate(Request(1, "first")).tokens(), Wanted(1));
  Generate(request(0, "one more"));

  const Generated forgotten = Generate(Request(1, "first"));

  EXPECT_EQ(forgotten.tokens(), Tokens{Wanted(2)[1]});
}

TEST_F(ResumeTest, TheLast1024AreRemembered) {
  Generate(Request(1, "first"));
  for (int i = 0; i < 1023; ++i) {
    Generate(Request(0, "n" + std::to_string(i)));
  }
  EXPECT_THAT(Generate(Request(1, "first")).tokens(),
              ElementsAre(Wanted(1)[0]));
  Generate(Request(0, "one more"));
  const Generated forgotten = Generate(Request(1, "first"));
  EXPECT_EQ(forgotten.tokens(), Tokens{Wanted(2)[1]});
}

}  // namespace
}  // namespace weir::service
