// SPDX-License-Identifier: Apache-2.0
//
// Many sessions fed by clients that send twice, out of order, too much and too
// late, and give up: every log must equal what its client meant.
#include <algorithm>
#include <cmath>
#include <deque>
#include <memory>
#include <random>
#include <string>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/support/manual_step_loop.h"

namespace weir::service {
namespace {

using support::FakeEngine;
using support::ManualStepLoop;
using support::Reply;
using support::Tokens;

constexpr int kSessions = 64;

// A client that means to append `tokens`, and knows only what it was told.
class Client {
 public:
  Client(std::string id, Tokens tokens, uint32_t seed)
      : id_(std::move(id)), tokens_(std::move(tokens)), random_(seed) {}

  const std::string& id() const { return id_; }
  const Tokens& tokens() const { return tokens_; }
  bool done() const { return confirmed_ == tokens_.size(); }

  void Act(ManualStepLoop& loop) {
    Hear();
    if (done()) return;
    // A window of pieces from somewhere at or before what is confirmed.
    uint64_t at = confirmed_;
    if (Chance(20)) at -= std::min<uint64_t>(at, Pick(50));
    std::vector<std::pair<uint64_t, uint64_t>> pieces;
    for (uint64_t i = 0; i < 1 + Pick(7) && at < tokens_.size(); ++i) {
      const uint64_t count = std::min<uint64_t>(tokens_.size() - at,
                                                Chance(30) ? 1 : 1 + Pick(90));
      pieces.emplace_back(at, count);
      if (Chance(20)) pieces.emplace_back(at, count);
      at += count;
    }
    if (Chance(10)) std::shuffle(pieces.begin(), pieces.end(), random_);
    for (const auto& [position, count] : pieces) Send(loop, position, count);
    if (Chance(3)) SendWrong(loop);
  }

  // What every answer promised must be so.
  void Hear() {
    while (!sent_.empty() && sent_.front().reply.done()) {
      const Sent& sent = sent_.front();
      if (sent.reply.ok()) {
        EXPECT_FALSE(sent.wrong);
        EXPECT_GE(sent.reply->position, sent.end);
        EXPECT_EQ(sent.reply->scores.size(),
                  sent.scored ? sent.end - sent.position : 0);
        confirmed_ = std::max(confirmed_, sent.reply->position);
      } else {
        const auto reason = sent.reply.reason();
        EXPECT_TRUE(reason == Reason::kPositionGap ||
                    reason == Reason::kQueueFull ||
                    (sent.wrong && reason == Reason::kPositionConflict) ||
                    (sent.cancelled && reason == Reason::kCancelled))
            << sent.reply.status();
      }
      sent_.pop_front();
    }
  }

 private:
  struct Sent {
    Reply<AppendResult> reply = {};
    uint64_t position = 0;
    uint64_t end = 0;
    bool scored = false;
    bool wrong = false;
    bool cancelled = false;
    std::shared_ptr<CallState> call = {};
  };

  bool Chance(uint32_t percent) { return Pick(100) < percent; }
  uint64_t Pick(uint64_t below) { return random_() % below; }

  void Send(ManualStepLoop& loop, uint64_t position, uint64_t count) {
    AppendRequest request;
    request.session_id = id_;
    request.expected_position = position;
    request.tokens.assign(tokens_.begin() + position,
                          tokens_.begin() + position + count);
    request.want_scores = Chance(50);
    Sent sent{.position = position,
              .end = position + count,
              .scored = request.want_scores,
              .call = std::make_shared<CallState>()};
    sent.cancelled = Chance(5);
    if (sent.cancelled && Chance(50)) sent.call->cancelled = true;
    sent.reply =
        loop.Append(std::move(request),
                    {.deadline = absl::InfiniteDuration(), .call = sent.call});
    if (sent.cancelled) sent.call->cancelled = true;
    sent_.push_back(std::move(sent));
  }

  // A token that the client never meant, where the log has another already.
  void SendWrong(ManualStepLoop& loop) {
    if (confirmed_ == 0) return;
    const uint64_t position = Pick(confirmed_);
    AppendRequest request;
    request.session_id = id_;
    request.expected_position = position;
    request.tokens = {tokens_[position] ^ 1, 7, 7};
    Sent sent{.position = position, .end = position + 3, .wrong = true};
    sent.reply = loop.Append(std::move(request));
    sent_.push_back(std::move(sent));
  }

  const std::string id_;
  const Tokens tokens_;
  std::mt19937 random_;
  uint64_t confirmed_ = 0;
  std::deque<Sent> sent_;
};

class ExactlyOnceTest : public testing::TestWithParam<uint32_t> {};

TEST_P(ExactlyOnceTest, EveryLogIsWhatItsClientMeant) {
  const uint32_t seed = GetParam();
  SCOPED_TRACE("seed " + std::to_string(seed));
  std::mt19937 random(seed);
  ManualStepLoop loop(
      {.engine = {.slots = kSessions},
       .limits = {.step_tokens_max = 1 + static_cast<int32_t>(random() % 300),
                  .step_rows_max = 1 + static_cast<int32_t>(random() % 70)}});
  std::vector<std::unique_ptr<Client>> clients;
  for (int i = 0; i < kSessions; ++i) {
    Tokens tokens(200 + random() % 1500);
    for (uint32_t& token : tokens) token = random() % 256;
    const std::string id = "s" + std::to_string(i);
    loop.Open(id);
    clients.push_back(
        std::make_unique<Client>(id, std::move(tokens), random()));
  }
  loop.Run();

  int64_t rounds = 0;
  const auto all_done = [&] {
    return std::all_of(clients.begin(), clients.end(), [](const auto& client) {
      return client->done();
    });
  };
  while (!all_done()) {
    ASSERT_LT(++rounds, 100'000);
    for (const auto& client : clients) {
      if (random() % 4 == 0) client->Act(loop);
    }
    // The store answers now and then late.
    if (random() % 8 == 0) loop.store().Hold();
    if (random() % 2 == 0) loop.store().Release();
    for (uint32_t i = random() % 4; i > 0; --i) loop.RunOnce();
  }
  loop.store().Release();
  loop.Run();

  EXPECT_EQ(loop.observer().levels.backlog_tokens, 0);
  for (int i = 0; i < kSessions; ++i) {
    Client& client = *clients[i];
    client.Hear();
    const SessionInfo info = loop.Info(client.id());
    EXPECT_EQ(info.position, client.tokens().size());
    EXPECT_EQ(info.applied_position, client.tokens().size());
    EXPECT_EQ(loop.engine().hash(i), FakeEngine::Hash(client.tokens()));
    const auto log = loop.Append(client.id(), 0, client.tokens(), true);
    loop.Run();
    ASSERT_TRUE(log.ok());
    EXPECT_TRUE(log->duplicate);
    // Totals and scores count each token's score once, and rightly.
    const std::vector<float> wanted = FakeEngine::Scores(client.tokens());
    uint64_t scored = 0;
    double sum = 0;
    for (size_t t = 0; t < wanted.size(); ++t) {
      if (std::isnan(log->scores[t])) continue;
      EXPECT_EQ(log->scores[t], wanted[t]);
      ++scored;
      sum += wanted[t];
    }
    EXPECT_EQ(info.scored_tokens, scored);
    EXPECT_NEAR(info.sum_log_prob, sum, 1e-9 * (1 + scored));
  }
}

INSTANTIATE_TEST_SUITE_P(Seeds,
                         ExactlyOnceTest,
                         testing::Values(1, 2, 3, 20240611));

}  // namespace
}  // namespace weir::service
