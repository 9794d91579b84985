// SPDX-License-Identifier: Apache-2.0
//
// The bound on all logs together. A block of the memory store holds 1,024
// tokens, or their scores, in 4,096 bytes.
#include <string>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/support/manual_step_loop.h"

namespace weir::service {
namespace {

using support::FakeEngine;
using support::Generated;
using support::ManualStepLoop;
using support::Reply;
using support::Tokens;
using testing::Contains;
using testing::Pair;
using testing::SizeIs;

constexpr uint64_t kBlock = 4096;

class LogRoomTest : public testing::Test {
 protected:
  void SetUp() override {
    for (const char* id : {"s", "t"}) loop_.Open(id);
    loop_.Run();
  }
  Reply<AppendResult> Append(const std::string& id,
                             uint64_t position,
                             size_t count,
                             bool want_scores = false) {
    auto reply = loop_.Append(id, position, Tokens(count, 7), want_scores);
    loop_.Run();
    return reply;
  }
  Generated Generate(uint32_t max_tokens, const std::string& request_id) {
    GenerateRequest request;
    request.session_id = "s";
    request.max_tokens = max_tokens;
    request.request_id = request_id;
    Generated generated = loop_.Generate(std::move(request));
    loop_.Run();
    return generated;
  }

  ManualStepLoop loop_{{.engine = {}, .limits = {.log_bytes_max = 4 * kBlock}}};
};

TEST_F(LogRoomTest, AppendsAreTakenUpToTheLimitAndNotBeyond) {
  ASSERT_TRUE(Append("s", 0, 2048).ok());
  const auto refused = Append("t", 0, 2049);
  EXPECT_EQ(refused.reason(), Reason::kLogFull);
  EXPECT_THAT(ValuesOf(refused.status()), Contains(Pair("limit", "16384")));
  EXPECT_EQ(loop_.Info("t").position, 0u);

  EXPECT_TRUE(Append("t", 0, 2048).ok());
  EXPECT_EQ(loop_.store().MemoryBytes(), 4 * kBlock);
  EXPECT_EQ(Append("s", 2048, 1).reason(), Reason::kLogFull);
  EXPECT_EQ(Append("t", 2040, 9).reason(), Reason::kLogFull);
  EXPECT_EQ(loop_.observer().rejected(Reason::kLogFull), 3);
}

TEST_F(LogRoomTest, WhatAddsNothingIsAnsweredThoughTheyAreFull) {
  ASSERT_TRUE(Append("s", 0, 4096).ok());

  const auto duplicate = Append("s", 0, 4096);
  ASSERT_TRUE(duplicate.ok());
  EXPECT_TRUE(duplicate->duplicate);
  EXPECT_TRUE(Append("s", 4096, 0).ok());
  EXPECT_TRUE(Generate(0, "none").end.ok());
}

TEST_F(LogRoomTest, ASessionThatIsClosedMakesRoom) {
  ASSERT_TRUE(Append("s", 0, 4096).ok());
  EXPECT_EQ(Append("t", 0, 1).reason(), Reason::kLogFull);
  loop_.Close("s");

  EXPECT_TRUE(Append("t", 0, 4096).ok());
}

TEST_F(LogRoomTest, ScoresTakeRoomAlready) {
  EXPECT_EQ(Append("s", 0, 2049, true).reason(), Reason::kLogFull);
  EXPECT_TRUE(Append("s", 0, 2048, true).ok());
  EXPECT_EQ(loop_.store().MemoryBytes(), 4 * kBlock);
}

TEST_F(LogRoomTest, WhatWaitsCounts) {
  // In one queue, before any of it is in the log or has its scores.
  const auto first = loop_.Append("s", 0, Tokens(2048, 7), true);
  const auto second = loop_.Append("t", 0, Tokens(1, 7));
  loop_.RunOnce();
  EXPECT_EQ(second.reason(), Reason::kLogFull);
  // In the log, and three quarters of the scores to come.
  const auto third = loop_.Append("t", 0, Tokens(1, 7));
  loop_.Run();
  EXPECT_EQ(third.reason(), Reason::kLogFull);

  EXPECT_TRUE(first.ok());
  EXPECT_EQ(loop_.store().MemoryBytes(), 4 * kBlock);
}

TEST_F(LogRoomTest, AGenerationEndsAfterTheTokenInHand) {
  ASSERT_TRUE(Append("t", 0, 3072).ok());
  ASSERT_TRUE(Append("s", 0, 10).ok());

  const Generated generated = Generate(5000, "r");

  // The limit is met with the block of the first token.
  EXPECT_EQ(generated.end.reason(), Reason::kLogFull);
  EXPECT_LE(loop_.store().MemoryBytes(), 4 * kBlock);
  const SessionInfo info = loop_.Info("s");
  EXPECT_EQ(info.position, 10 + generated.tokens().size());
  EXPECT_EQ(info.applied_position, info.position);
  EXPECT_FALSE(info.generating);
}

TEST_F(LogRoomTest, AGenerationThatRunsIntoTheLimitKeepsItsTokens) {
  ASSERT_TRUE(Append("t", 0, 2048).ok());
  ASSERT_TRUE(Append("s", 0, 1000).ok());

  const Generated generated = Generate(5000, "r");

  EXPECT_EQ(generated.end.reason(), Reason::kLogFull);
  ASSERT_THAT(generated.tokens(), SizeIs(25));  // the first of a fourth block
  Tokens all(1000, 7);
  for (const uint32_t token : generated.tokens()) all.push_back(token);
  EXPECT_EQ(loop_.engine().hash(0), FakeEngine::Hash(all));
  EXPECT_EQ(loop_.Info("s").applied_position, 1025u);

  // They are sent again, full or not, and it goes on when there is room.
  const Generated full = Generate(5000, "r");
  EXPECT_EQ(full.end.reason(), Reason::kLogFull);
  EXPECT_EQ(full.tokens(), generated.tokens());
  loop_.Close("t");
  const Generated resumed = Generate(5000, "r");
  EXPECT_EQ(resumed.end.reason(), Reason::kLogFull);
  EXPECT_GT(resumed.tokens().size(), 2000u);
}

}  // namespace
}  // namespace weir::service
