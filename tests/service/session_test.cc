// SPDX-License-Identifier: Apache-2.0
//
// Opening, reading, listing and closing sessions, and those that are left
// alone.
#include <set>
#include <string>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/support/manual_step_loop.h"

namespace weir::service {
namespace {

using support::Generated;
using support::ManualStepLoop;
using support::Reply;
using support::Tokens;
using testing::ElementsAre;

class SessionTest : public testing::Test {
 protected:
  Reply<OpenResult> Open(OpenRequest request) {
    auto reply = loop_.Open(std::move(request));
    loop_.Run();
    return reply;
  }
  Reply<OpenResult> Open(std::string id) {
    return Open(OpenRequest{.session_id = std::move(id)});
  }
  void Pass(absl::Duration time) {
    loop_.clock().Advance(time);
    loop_.Run();
  }
  bool IsOpen(const std::string& id) {
    for (const SessionInfo& info : ListAll()) {
      if (info.session_id == id) return true;
    }
    return false;
  }
  // A List touches no session.
  std::vector<SessionInfo> ListAll() {
    const auto list = loop_.List({.page_size = 1000, .after = ""});
    loop_.Run();
    return list->sessions;
  }

  ManualStepLoop loop_;
};

TEST_F(SessionTest, OpensAtPositionZero) {
  const auto opened = Open("s");

  ASSERT_TRUE(opened.ok());
  EXPECT_TRUE(opened->created);
  EXPECT_EQ(opened->session.session_id, "s");
  EXPECT_EQ(opened->session.position, 0u);
  EXPECT_EQ(opened->session.epoch, 1u);
  EXPECT_EQ(opened->session.idle_timeout, absl::Hours(1));
}

TEST_F(SessionTest, IssuedIdsAre32HexDigitsAndAllDiffer) {
  std::set<std::string> ids;
  for (int i = 0; i < 8; ++i) {
    const auto opened = Open("");
    ASSERT_TRUE(opened.ok());
    const std::string& id = opened->session.session_id;
    EXPECT_EQ(id.size(), 32u);
    EXPECT_EQ(id.find_first_not_of("0123456789abcdef"), std::string::npos);
    ids.insert(id);
  }
  EXPECT_EQ(ids.size(), 8u);
}

TEST_F(SessionTest, OpenAgainReturnsTheOpenOne) {
  const auto first = Open("s");
  loop_.Append("s", 0, {1, 2, 3});
  loop_.Run();
  const auto again = Open("s");
  const auto same = Open(OpenRequest{.session_id = "s",
                                     .seed = first->session.seed,
                                     .idle_timeout = absl::Hours(1)});

  ASSERT_TRUE(again.ok() && same.ok());
  EXPECT_FALSE(again->created);
  EXPECT_EQ(again->session.position, 3u);
  EXPECT_EQ(again->session.seed, first->session.seed);
  EXPECT_EQ(loop_.engine().held().size(), 1u);
}

TEST_F(SessionTest, OpenWithOtherParametersIsRefused) {
  Open(OpenRequest{.session_id = "s", .seed = 7});

  EXPECT_EQ(Open(OpenRequest{.session_id = "s", .seed = 8}).reason(),
            Reason::kSessionExists);
  EXPECT_EQ(
      Open(OpenRequest{.session_id = "s", .idle_timeout = absl::Minutes(5)})
          .reason(),
      Reason::kSessionExists);
}

TEST_F(SessionTest, BadOpensAreRefused) {
  EXPECT_EQ(Open("Not good").reason(), Reason::kBadId);
  EXPECT_EQ(Open(std::string(129, 'a')).reason(), Reason::kBadId);
  for (const absl::Duration timeout : {absl::ZeroDuration(),
                                       absl::Milliseconds(999),
                                       absl::Hours(24 * 7 + 1)}) {
    EXPECT_EQ(
        Open(OpenRequest{.session_id = "s", .idle_timeout = timeout}).reason(),
        Reason::kBadTtl);
  }
  EXPECT_TRUE(loop_.engine().held().empty());
}

TEST_F(SessionTest, FullPoolIsSaidUntilOneCloses) {
  for (int i = 0; i < 8; ++i) {
    ASSERT_TRUE(Open("s" + std::to_string(i)).ok());
  }
  EXPECT_EQ(Open("t").reason(), Reason::kStatePoolExhausted);
  EXPECT_TRUE(Open("s3").ok());
  loop_.Close("s3");
  EXPECT_TRUE(Open("t").ok());
}

TEST_F(SessionTest, UnknownOnesAreNotFound) {
  const auto get = loop_.Get("s");
  const auto bad = loop_.Get("S");
  const auto close = loop_.Close("s");
  const auto bad_close = loop_.Close("");
  loop_.Run();

  EXPECT_EQ(get.reason(), Reason::kSessionNotFound);
  EXPECT_EQ(bad.reason(), Reason::kBadId);
  ASSERT_TRUE(close.ok());
  EXPECT_FALSE(close->closed);
  EXPECT_EQ(bad_close.reason(), Reason::kBadId);
}

TEST_F(SessionTest, ListIsInTheOrderOfIdsAPageAtATime) {
  for (const char* id : {"d", "a", "c", "b", "e"}) Open(id);

  std::vector<std::string> ids;
  std::string after;
  int pages = 0;
  for (bool more = true; more; ++pages) {
    const auto page = loop_.List({.page_size = 2, .after = after});
    loop_.Run();
    for (const SessionInfo& info : page->sessions) {
      ids.push_back(info.session_id);
      after = info.session_id;
    }
    more = page->more;
  }

  EXPECT_THAT(ids, ElementsAre("a", "b", "c", "d", "e"));
  EXPECT_EQ(pages, 3);
}

TEST_F(SessionTest, ListGoesOnAfterAnIdThatHasGone) {
  for (const char* id : {"a", "b", "c"}) Open(id);
  loop_.Close("b");
  const auto page = loop_.List({.page_size = 0, .after = "b"});
  const auto bad = loop_.List({.page_size = -1, .after = ""});
  loop_.Run();

  ASSERT_EQ(page->sessions.size(), 1u);
  EXPECT_EQ(page->sessions[0].session_id, "c");
  EXPECT_FALSE(page->more);
  EXPECT_EQ(bad.reason(), Reason::kBadPage);
}

TEST(SessionPageTest, PagesAreOf100AndAtMost1000) {
  ManualStepLoop loop({.engine = {.slots = 1100}, .limits = {}});
  for (int i = 0; i < 1100; ++i) loop.Open("");
  const auto standard = loop.List({.page_size = 0, .after = ""});
  const auto most = loop.List({.page_size = 5000, .after = ""});
  loop.Run();

  EXPECT_EQ(standard->sessions.size(), 100u);
  EXPECT_EQ(most->sessions.size(), 1000u);
  EXPECT_TRUE(standard->more && most->more);
}

TEST_F(SessionTest, IdleOnesAreClosedAfterTheirTime) {
  Open(OpenRequest{.session_id = "short", .idle_timeout = absl::Seconds(10)});
  Open(OpenRequest{.session_id = "long", .idle_timeout = absl::Seconds(60)});

  Pass(absl::Seconds(10) - absl::Nanoseconds(1));
  EXPECT_TRUE(IsOpen("short"));
  EXPECT_EQ(loop_.loop().NextTimer(),
            loop_.clock().Now() + absl::Nanoseconds(1));
  Pass(absl::Nanoseconds(1));
  EXPECT_FALSE(IsOpen("short"));
  EXPECT_TRUE(IsOpen("long"));
  Pass(absl::Seconds(50));
  EXPECT_FALSE(IsOpen("long"));
  EXPECT_EQ(loop_.observer().closed[CloseReason::kIdle], 2);
  EXPECT_TRUE(loop_.engine().held().empty());
  EXPECT_EQ(loop_.loop().NextTimer(), absl::InfiniteDuration());
}

TEST_F(SessionTest, ExpiredOneIsSaidToBeUntilItIsOpenedAgain) {
  const auto reasons = [this] {
    GenerateRequest generate;
    generate.session_id = "s";
    const auto get = loop_.Get("s");
    const auto append = loop_.Append("s", 0, {1});
    const auto generated = loop_.Generate(std::move(generate));
    ForkRequest copy;
    copy.session_id = "s";
    const auto fork = loop_.Fork(std::move(copy));
    loop_.Run();
    return std::set{
        get.reason(), append.reason(), generated.end.reason(), fork.reason()};
  };
  Open(OpenRequest{.session_id = "s", .idle_timeout = absl::Seconds(10)});
  Pass(absl::Seconds(10));

  EXPECT_THAT(reasons(), ElementsAre(Reason::kSessionExpired));
  EXPECT_EQ(loop_.observer().rejected(Reason::kSessionExpired), 4);
  const auto unknown = loop_.Get("t");
  const auto closed = loop_.Close("s");
  loop_.Run();
  EXPECT_EQ(unknown.reason(), Reason::kSessionNotFound);
  ASSERT_TRUE(closed.ok());
  EXPECT_FALSE(closed->closed);

  Open("s");
  loop_.Close("s");
  EXPECT_THAT(reasons(), ElementsAre(Reason::kSessionNotFound));
}

TEST_F(SessionTest, TheLast4096ExpiredAreKnown) {
  const auto expire = [this](const std::string& id) {
    Open(OpenRequest{.session_id = id, .idle_timeout = absl::Seconds(1)});
    Pass(absl::Seconds(1));
  };
  const auto reason = [this](const std::string& id) {
    const auto get = loop_.Get(id);
    loop_.Run();
    return get.reason();
  };
  expire("first");
  expire("again");
  expire("again");
  for (int i = 0; i < 4094; ++i) expire("s" + std::to_string(i));

  // The first of 4,097; the second of them has ended once more since.
  EXPECT_EQ(reason("first"), Reason::kSessionNotFound);
  EXPECT_EQ(reason("again"), Reason::kSessionExpired);
  expire("one-more");
  EXPECT_EQ(reason("again"), Reason::kSessionExpired);
  expire("two-more");
  EXPECT_EQ(reason("again"), Reason::kSessionNotFound);
  EXPECT_EQ(reason("s0"), Reason::kSessionExpired);
}

TEST_F(SessionTest, AnyRequestKeepsItOpen) {
  Open(OpenRequest{.session_id = "s", .idle_timeout = absl::Seconds(10)});
  loop_.Append("s", 0, {1});
  for (int i = 0; i < 4; ++i) {
    Pass(absl::Seconds(9));
    loop_.Get("s");
    Pass(absl::Seconds(9));
    loop_.Append("s", 0, {2});
    Pass(absl::Seconds(9));
    Open("s");
    Pass(absl::Seconds(9));
    loop_.Append("s", 0, {});
    loop_.Run();
  }
  EXPECT_TRUE(IsOpen("s"));
  EXPECT_EQ(ListAll()[0].idle, absl::ZeroDuration());
  Pass(absl::Seconds(4));
  EXPECT_EQ(ListAll()[0].idle, absl::Seconds(4));
  const auto get = loop_.Get("s");
  loop_.Run();
  EXPECT_EQ(get->idle, absl::Seconds(4));
}

TEST_F(SessionTest, PendingWorkKeepsItOpenHoweverLongItTakes) {
  Open(OpenRequest{.session_id = "s", .idle_timeout = absl::Seconds(10)});
  loop_.store().Hold();
  const auto append = loop_.Append("s", 0, {1, 2, 3});
  loop_.Run();
  for (int i = 0; i < 5; ++i) Pass(absl::Seconds(11));
  EXPECT_TRUE(IsOpen("s"));
  loop_.store().Release();
  loop_.Run();
  EXPECT_TRUE(append.ok());

  Pass(absl::Seconds(9));
  EXPECT_TRUE(IsOpen("s"));
  Pass(absl::Seconds(11));
  EXPECT_FALSE(IsOpen("s"));
}

TEST_F(SessionTest, NoneExpiresUnderAClockThatStandsStill) {
  for (int i = 0; i < 8; ++i) {
    Open(OpenRequest{.session_id = "s" + std::to_string(i),
                     .idle_timeout = absl::Seconds(1)});
  }
  for (int i = 0; i < 10'000; ++i) loop_.RunOnce();

  EXPECT_EQ(ListAll().size(), 8u);
}

TEST_F(SessionTest, InfoIsThatOfTheLastPublishedStep) {
  Open("s");
  Open("t");
  const ServiceInfo info = loop_.loop().info();
  EXPECT_EQ(info.slots, 8);
  EXPECT_EQ(info.slots_free, 6);
  EXPECT_EQ(info.sessions, 2);
}

TEST_F(SessionTest, LevelsSayWhoHadARowInTheLastStepAndWhoHadNone) {
  Open("s");
  Open("t");
  const auto first = loop_.Append("s", 0, Tokens(600, 1));
  const auto second = loop_.Append("s", 600, Tokens(10, 1));
  const auto other = loop_.Append("t", 0, Tokens(100, 1));
  const Levels& levels = loop_.observer().levels;

  loop_.RunOnce();
  EXPECT_TRUE(other.ok());
  EXPECT_EQ(levels.requests_running, 2);
  EXPECT_EQ(levels.requests_waiting, 1);  // the second

  loop_.Run();
  EXPECT_TRUE(first.ok() && second.ok());
  EXPECT_EQ(levels.requests_running, 0);
  EXPECT_EQ(levels.requests_waiting, 0);
}

TEST_F(SessionTest, LevelsOfAPausedGenerationSayThatItWaits) {
  Open("s");
  loop_.Append("s", 0, {1});
  loop_.Run();
  const auto call = std::make_shared<CallState>();
  GenerateRequest request;
  request.session_id = "s";
  request.max_tokens = 100;
  request.on_event = [call](const GenerateEvent&) { ++call->unsent; };
  const Generated paused = loop_.Generate(std::move(request), {.call = call});
  loop_.RunOnce();
  EXPECT_EQ(loop_.observer().levels.requests_running, 1);

  loop_.Run();

  EXPECT_FALSE(paused.end.done());
  EXPECT_EQ(loop_.observer().levels.requests_running, 0);
  EXPECT_EQ(loop_.observer().levels.requests_waiting, 1);
}

TEST_F(SessionTest, HundredThousandCyclesLeakNothing) {
  const uint64_t empty = loop_.store().MemoryBytes();
  for (int i = 0; i < 100'000; ++i) {
    const std::string id = "s" + std::to_string(i % 11);
    const auto opened = loop_.Open(id);
    const auto appended = loop_.Append(id, 0, {1, 2, 3}, true);
    const auto closed = loop_.Close(id);
    if (i % 3 == 0) loop_.RunOnce();
    if (i % 7 == 0) loop_.Run();
  }
  loop_.Run();

  EXPECT_TRUE(loop_.engine().held().empty());
  EXPECT_EQ(loop_.store().logs(), 0);
  EXPECT_EQ(loop_.store().MemoryBytes(), empty);
  EXPECT_EQ(loop_.observer().levels.sessions, 0);
  EXPECT_EQ(loop_.observer().opened, 100'000);
}

TEST_F(SessionTest, CyclesOfManySessionsStartFromNothing) {
  const std::vector<float> wanted =
      support::FakeEngine::Scores(Tokens{1, 2, 3});
  for (int i = 0; i < 5'000; ++i) {
    std::vector<Reply<AppendResult>> appends;
    for (int s = 0; s < 8; ++s) {
      loop_.Open("s" + std::to_string(s));
      appends.push_back(
          loop_.Append("s" + std::to_string(s), 0, {1, 2, 3}, true));
    }
    loop_.Run();
    for (int s = 0; s < 8; ++s) {
      ASSERT_TRUE(appends[s].ok());
      ASSERT_EQ(appends[s]->scores[2], wanted[2]);
      loop_.Close("s" + std::to_string(s));
    }
  }
  loop_.Run();
  EXPECT_TRUE(loop_.engine().held().empty());
}

class DrainTest : public SessionTest {};

TEST_F(DrainTest, RefusesAtTheDoorAndFinishesWhatIsAccepted) {
  Open("s");
  const auto append = loop_.Append("s", 0, Tokens(5000, 1));
  loop_.RunOnce();
  loop_.loop().BeginDrain();
  const auto refused = loop_.Append("s", 5000, {1});
  EXPECT_EQ(refused.reason(), Reason::kServerDraining);
  EXPECT_FALSE(loop_.loop().AwaitDrained(absl::ZeroDuration()));
  loop_.Run();

  EXPECT_TRUE(append.ok());
  EXPECT_TRUE(loop_.loop().AwaitDrained(absl::ZeroDuration()));
}

TEST_F(DrainTest, GenerationsEndAfterTheTokenInHand) {
  Open("s");
  loop_.Append("s", 0, {1});
  loop_.Run();
  const Generated generated = loop_.Generate([] {
    GenerateRequest request;
    request.session_id = "s";
    request.max_tokens = 10'000;
    return request;
  }());
  for (int i = 0; i < 5; ++i) loop_.RunOnce();
  loop_.loop().BeginDrain();
  loop_.Run();

  EXPECT_EQ(generated.end.reason(), Reason::kServerDraining);
  EXPECT_LE(generated.tokens().size(), 6u);
  EXPECT_TRUE(loop_.loop().AwaitDrained(absl::ZeroDuration()));
  EXPECT_EQ(loop_.engine().consumed(0), 1 + generated.tokens().size());
}

TEST_F(DrainTest, StopAnswersWhatIsLeft) {
  Open("s");
  loop_.store().Hold();
  const auto accepted = loop_.Append("s", 0, Tokens(5000, 1));
  loop_.RunOnce();
  const auto queued = loop_.Append("s", 5000, {1});
  loop_.Stop();

  EXPECT_EQ(accepted.reason(), Reason::kServerDraining);
  EXPECT_EQ(queued.reason(), Reason::kServerDraining);
  EXPECT_EQ(loop_.observer().closed[CloseReason::kDrain], 1);
}

TEST_F(DrainTest, QueueIsFullAtItsLimitUntilOneIsAnswered) {
  ManualStepLoop small({.engine = {}, .limits = {.queue_max = 3}});
  small.Open("s");
  small.Run();
  small.store().Hold();
  const auto waiting = small.Append("s", 0, {1});
  small.Run();
  const auto second = small.Append("s", 1, {2});
  const auto third = small.Append("s", 2, {3});
  const auto full = small.Append("s", 3, {4});
  EXPECT_EQ(full.reason(), Reason::kQueueFull);
  EXPECT_FALSE(ValuesOf(full.status()).empty());

  small.store().Release();
  small.Run();
  EXPECT_TRUE(waiting.ok() && second.ok() && third.ok());
  const auto again = small.Append("s", 3, {4});
  small.Run();
  EXPECT_TRUE(again.ok());
}

TEST_F(DrainTest, WaitingTokensAreBoundedToo) {
  ManualStepLoop small({.engine = {}, .limits = {.waiting_tokens_max = 100}});
  small.Open("s");
  // One always fits, or it never would.
  const auto large = small.Append("s", 0, Tokens(150, 1));
  const auto full = small.Append("s", 150, {1});
  EXPECT_EQ(full.reason(), Reason::kQueueFull);
  small.Run();
  EXPECT_TRUE(large.ok());
  const auto again = small.Append("s", 150, {1});
  small.Run();
  EXPECT_TRUE(again.ok());
}

}  // namespace
}  // namespace weir::service
