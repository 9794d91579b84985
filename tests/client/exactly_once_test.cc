// SPDX-License-Identifier: Apache-2.0
//
// Whatever call fails, and on whichever side of its effect: the log ends up
// with each token once, and the sums are those of an undisturbed run.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <functional>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/time/time.h"
#include "base/check.h"
#include "client/errors.h"
#include "client/session.h"
#include "tests/client/fake_server.h"

namespace weir::client {
namespace {

std::vector<uint32_t> Document(size_t tokens) {
  std::vector<uint32_t> document(tokens);
  for (size_t i = 0; i < tokens; ++i) document[i] = (i * i + 3 * i) % 251;
  return document;
}

double SumOfScores(const std::vector<uint32_t>& document) {
  double sum = 0;
  for (size_t i = 1; i < document.size(); ++i) {
    sum += FakeServer::ScoreAt(i, document[i]);
  }
  return sum;
}

// Gives a document in reads of at most `most` tokens.
TokenSource From(const std::vector<uint32_t>& document, size_t most = 1 << 20) {
  return [&document, most, at = size_t{0}](
             std::span<uint32_t> room) mutable -> absl::StatusOr<TokenRead> {
    const size_t n = std::min({room.size(), document.size() - at, most});
    std::copy_n(document.begin() + at, n, room.begin());
    at += n;
    return TokenRead{.tokens = n, .end = at == document.size()};
  };
}

class ExactlyOnceTest : public testing::Test {
 protected:
  ExactlyOnceTest() {
    options_.target = server_.target();
    options_.call_deadline = absl::Seconds(5);
    options_.retry.backoff_initial = absl::Milliseconds(1);
    options_.retry.backoff_max = absl::Milliseconds(4);
  }

  // Made from options_ at its first use.
  Client& client() {
    if (client_ == nullptr) client_ = std::make_unique<Client>(options_);
    return *client_;
  }

  Session Open() {
    v1::OpenSessionRequest request;
    request.set_model("fake");
    absl::StatusOr<Session> session = Session::Open(client(), request);
    WEIR_CHECK(session.ok());
    return *std::move(session);
  }

  void FailAt(std::string call, int failing, Fault fault) {
    server_.set_plan([=](std::string_view name, int nth) {
      return name == call && nth == failing ? fault : Fault();
    });
  }

  // Runs `body` with each of the first `calls` calls of a name failing, before
  // it was applied and after.
  void WithEachFailure(const std::string& call,
                       int calls,
                       const std::function<void()>& body) {
    for (const auto& [name, when] : {std::pair("before", Fault::When::kBefore),
                                     std::pair("after", Fault::When::kAfter)}) {
      for (int failing = 1; failing <= calls; ++failing) {
        SCOPED_TRACE(std::string(name) + " " + std::to_string(failing));
        FailAt(call, failing, {.when = when});
        body();
      }
    }
  }

  // Streams a document that must arrive whole.
  StreamTotals MustStream(Session& session,
                          const std::vector<uint32_t>& document,
                          const StreamAppendOptions& options) {
    const auto totals = session.Stream(options, From(document), Ignore);
    EXPECT_TRUE(totals.ok()) << totals.status();
    EXPECT_EQ(server_.log(session.id()), document);
    return totals.value_or(StreamTotals());
  }

  // Streams a document over what the session has read from position 0.
  absl::Status StreamOver(const Session& session,
                          const std::vector<uint32_t>& document,
                          bool want_scores = true) {
    return StreamAppend(client(),
                        session.id(),
                        0,
                        {.append_tokens = 10, .want_scores = want_scores},
                        From(document),
                        Ignore)
        .status();
  }

  static void Ignore(const AppendedPart&, const StreamTotals&) {}

  FakeServer server_;
  ClientOptions options_;

 private:
  std::unique_ptr<Client> client_;
};

class SessionTest : public ExactlyOnceTest {};

TEST_F(ExactlyOnceTest, UnaryAppendsWithAFailureAtEveryCallOnBothSides) {
  const std::vector<uint32_t> document = Document(60);
  WithEachFailure("Append", 6, [&] {
    Session session = Open();
    double sum = 0;
    for (size_t at = 0; at < document.size(); at += 10) {
      const auto reply =
          session.Append({document.data() + at, 10}, {.want_scores = true});
      ASSERT_TRUE(reply.ok()) << reply.status();
      for (const float score : reply->scores()) {
        if (!std::isnan(score)) sum += score;
      }
    }
    EXPECT_EQ(server_.calls("Append"), 7);
    EXPECT_EQ(server_.log(session.id()), document);
    EXPECT_DOUBLE_EQ(sum, SumOfScores(document));
    EXPECT_EQ(session.position(), document.size());
  });
}

TEST_F(ExactlyOnceTest, AStreamCutAtEveryAppendOnBothSides) {
  const std::vector<uint32_t> document = Document(95);
  for (const bool want_scores : {true, false}) {
    WithEachFailure("Append", 10, [&] {
      Session session = Open();
      uint64_t next = 0;
      const auto totals = session.Stream(
          {.append_tokens = 10, .window = 4, .want_scores = want_scores},
          From(document),
          [&](const AppendedPart& part, const StreamTotals&) {
            EXPECT_EQ(part.start, next) << "in order, each once";
            next = part.start + part.tokens;
          });
      ASSERT_TRUE(totals.ok()) << totals.status();
      EXPECT_EQ(server_.log(session.id()), document);
      EXPECT_EQ(totals->position, document.size());
      EXPECT_EQ(totals->tokens, document.size());
      EXPECT_EQ(totals->resumes, 1);
      EXPECT_EQ(totals->scored_tokens, want_scores ? document.size() - 1 : 0);
      EXPECT_DOUBLE_EQ(totals->sum_log_prob,
                       want_scores ? SumOfScores(document) : 0);
    });
  }
}

TEST_F(ExactlyOnceTest, AStreamThatBreaksAtEveryThirdAppendStillEnds) {
  const std::vector<uint32_t> document = Document(400);
  Session session = Open();
  server_.set_plan([](std::string_view call, int nth) {
    if (call != "Append" || nth % 3 != 0) return Fault();
    return Fault{.when =
                     nth % 2 == 0 ? Fault::When::kBefore : Fault::When::kAfter};
  });

  const StreamTotals totals =
      MustStream(session, document, {.append_tokens = 10, .window = 4});

  EXPECT_DOUBLE_EQ(totals.sum_log_prob, SumOfScores(document));
  EXPECT_GT(totals.resumes, 8);
  EXPECT_GT(server_.duplicate_tokens(), 0u);
}

TEST_F(ExactlyOnceTest, AnItemRefusedForNowIsSentAgainFromThere) {
  Session session = Open();
  FailAt("Append",
         4,
         {.when = Fault::When::kBefore,
          .status = ToGrpc(Refusal(grpc::StatusCode::RESOURCE_EXHAUSTED,
                                   "QUEUE_FULL",
                                   {},
                                   absl::Milliseconds(1)))});

  MustStream(session, Document(100), {.append_tokens = 10, .window = 8});
}

TEST_F(ExactlyOnceTest, AConflictEndsAStreamWithItsReason) {
  const std::vector<uint32_t> document = Document(100);
  Session session = Open();
  ASSERT_TRUE(session.Append(document).ok());
  std::vector<uint32_t> other = document;
  other[55] ^= 1;

  const absl::Status status = StreamOver(session, other);

  EXPECT_TRUE(absl::IsAborted(status)) << status;
  EXPECT_EQ(ReasonOf(status), "POSITION_CONFLICT");
  EXPECT_EQ(NumberOf(status, "position"), 100u);
  EXPECT_EQ(server_.log(session.id()), document);
}

TEST_F(ExactlyOnceTest, NothingIsAppendedAfterAConflictAtTheLogsVeryEnd) {
  const std::vector<uint32_t> document = Document(100);
  std::vector<uint32_t> other = Document(300);
  other[95] ^= 1;
  for (int round = 0; round < 20; ++round) {
    Session session = Open();
    ASSERT_TRUE(session.Append(document).ok());

    EXPECT_EQ(ReasonOf(StreamOver(session, other)), "POSITION_CONFLICT");
    EXPECT_EQ(server_.log(session.id()), document);
  }
}

TEST_F(ExactlyOnceTest, OthersTokensWhereMineWereCutOffAreAConflict) {
  const std::vector<uint32_t> document = Document(100);
  std::vector<uint32_t> other = document;
  other[5] ^= 1;
  for (const bool want_scores : {true, false}) {
    Session session = Open();
    ASSERT_TRUE(session.Append(document).ok());
    FailAt("Append", 1, {.when = Fault::When::kBefore});

    EXPECT_EQ(ReasonOf(StreamOver(session, other, want_scores)),
              "POSITION_CONFLICT");
  }
}

TEST_F(ExactlyOnceTest, AHangingStreamIsOpenedAgain) {
  options_.call_deadline = absl::Milliseconds(200);
  Session session = Open();
  FailAt("Append", 3, {.when = Fault::When::kHang});

  const StreamTotals totals =
      MustStream(session, Document(50), {.append_tokens = 10, .window = 2});

  EXPECT_EQ(totals.resumes, 1);
}

TEST_F(ExactlyOnceTest, AnAppendThatGetsOnIsNotSilentHoweverLongItTakes) {
  options_.call_deadline = absl::Milliseconds(200);
  Session session = Open();
  FailAt("Append",
         2,
         {.when = Fault::When::kSlow, .slow = absl::Milliseconds(800)});

  // So much that a write waits too while the server does not read.
  const StreamTotals totals = MustStream(
      session, Document(5'000'000), {.append_tokens = 65'536, .window = 80});

  EXPECT_EQ(totals.resumes, 0);
}

TEST_F(ExactlyOnceTest, AnAppendSentAgainWaitsAsLongAsTheServerGetsOn) {
  options_.call_deadline = absl::Milliseconds(50);
  options_.retry.attempts_max = 3;
  Session session = Open();
  server_.set_plan([&](std::string_view call, int nth) {
    if (call != "Append" || nth > 6) return Fault();
    return Fault{.when = Fault::When::kHang};
  });
  // Not yet applied, and one token less so whenever the session is read.
  server_.Delay(session.id(), 9);

  const StreamTotals totals = MustStream(session, Document(20), {});

  EXPECT_GE(totals.resumes, 6);
}

TEST_F(ExactlyOnceTest, AServerThatIsStoppingIsAskedUntilTheNextOneAnswers) {
  options_.retry.attempts_max = 20;
  Session session = Open();
  server_.set_plan([](std::string_view call, int nth) {
    const bool cut = call == "Append" ? nth == 3 : nth <= 9;
    return cut ? Fault{.when = Fault::When::kBefore,
                       .status = {grpc::StatusCode::CANCELLED, "CANCELLED"}}
               : Fault();
  });

  const StreamTotals totals =
      MustStream(session, Document(100), {.append_tokens = 10});

  EXPECT_EQ(totals.resumes, 1);
  EXPECT_EQ(server_.calls("GetSession"), 10);
}

TEST_F(ExactlyOnceTest, ASilentSourceUsesUpNoTimeForTries) {
  options_.retry.time_max = absl::Milliseconds(300);
  const std::vector<uint32_t> document = Document(40);
  Session session = Open();
  FailAt("Append", 2, {.when = Fault::When::kBefore});
  const TokenSource ten = From(document, 10);
  absl::Time open = absl::InfinitePast();

  const auto totals = session.Stream(
      {},
      [&](std::span<uint32_t> room) -> absl::StatusOr<TokenRead> {
        return absl::Now() < open ? TokenRead() : ten(room);
      },
      [&](const AppendedPart&, const StreamTotals&) {
        open = absl::Now() + 2 * options_.retry.time_max;
      });

  ASSERT_TRUE(totals.ok()) << totals.status();
  EXPECT_EQ(totals->resumes, 1);
  EXPECT_EQ(server_.log(session.id()), document);
}

TEST_F(ExactlyOnceTest, ASessionThatWentBackIsDataLossAndNotAGap) {
  const std::vector<uint32_t> document = Document(100);
  Session session = Open();
  FailAt("Append", 5, {.when = Fault::When::kBefore});

  const absl::Status status =
      session
          .Stream({.append_tokens = 10, .window = 1},
                  From(document),
                  [&](const AppendedPart&, const StreamTotals& totals) {
                    if (totals.position == 40) {
                      server_.Truncate(session.id(), 20);
                    }
                  })
          .status();

  EXPECT_TRUE(absl::IsDataLoss(status)) << status;
}

TEST_F(ExactlyOnceTest, TheWindowBoundsWhatIsUnanswered) {
  const std::vector<uint32_t> document = Document(1000);
  Session session = Open();
  size_t read = 0;
  size_t most = 0;
  uint64_t answered = 0;
  const TokenSource source = From(document);
  // A server that answers at once would not let the window become full.
  server_.set_plan([](std::string_view call, int nth) -> Fault {
    if (call != "Append" || nth > 1) return {};
    return {.when = Fault::When::kSlow, .slow = absl::Seconds(1)};
  });

  const auto totals = session.Stream(
      {.append_tokens = 10, .window = 3},
      [&](std::span<uint32_t> room) {
        auto got = source(room);
        read += got->tokens;
        most = std::max(most, read - answered);
        return got;
      },
      [&](const AppendedPart&, const StreamTotals& so_far) {
        answered = so_far.tokens;
      });

  ASSERT_TRUE(totals.ok()) << totals.status();
  EXPECT_EQ(most, 30u) << "three appends of ten";
  EXPECT_EQ(server_.streams(), 1);
}

TEST_F(ExactlyOnceTest, ShortReadsAndNoneYetAndAnEmptySource) {
  const std::vector<uint32_t> document = Document(23);
  Session session = Open();
  const TokenSource seven = From(document, 7);
  bool none = false;

  const auto totals = session.Stream(
      {.append_tokens = 10},
      [&](std::span<uint32_t> room) -> absl::StatusOr<TokenRead> {
        none = !none;
        return none ? TokenRead() : seven(room);
      },
      Ignore);
  ASSERT_TRUE(totals.ok()) << totals.status();
  EXPECT_EQ(server_.log(session.id()), document);

  const auto empty = session.Stream(
      {}, [](std::span<uint32_t>) { return TokenRead{.end = true}; }, Ignore);
  ASSERT_TRUE(empty.ok());
  EXPECT_EQ(empty->position, document.size());
  EXPECT_EQ(server_.streams(), 1) << "nothing to send opens no stream";
}

TEST_F(ExactlyOnceTest, AFailingSourceEndsTheStreamWithItsError) {
  Session session = Open();

  const absl::Status status =
      session
          .Stream(
              {},
              [](std::span<uint32_t>) -> absl::StatusOr<TokenRead> {
                return absl::UnavailableError("the disk");
              },
              Ignore)
          .status();

  EXPECT_EQ(status.message(), "the disk");
}

TEST_F(ExactlyOnceTest, AGenerationCutAtEveryTokenOnBothSides) {
  std::vector<uint32_t> expected;
  for (uint64_t at = 3; at < 15; ++at) {
    expected.push_back(FakeServer::GeneratedAt(at));
  }
  v1::GenerateRequest request;
  request.set_max_tokens(12);
  WithEachFailure("Generate", 12, [&] {
    Session session = Open();
    ASSERT_TRUE(session.AppendText("abc").ok());
    std::vector<uint32_t> tokens;
    const auto end =
        session.Generate(request, [&](const v1::GenerateReply& reply) {
          tokens.insert(
              tokens.end(), reply.tokens().begin(), reply.tokens().end());
        });
    ASSERT_TRUE(end.ok()) << end.status();
    EXPECT_EQ(tokens, expected);
    EXPECT_EQ(end->begin, 3u);
    EXPECT_EQ(end->position, 15u);
    EXPECT_EQ(session.position(), 15u);
    EXPECT_EQ(end->finish_reason, v1::FINISH_REASON_LENGTH);
    EXPECT_EQ(end->resumes, 1);
    EXPECT_EQ(server_.log(session.id()).size(), 15u);
  });
}

TEST_F(ExactlyOnceTest, AHangingGenerationIsResumed) {
  options_.call_deadline = absl::Milliseconds(200);
  Session session = Open();
  FailAt("Generate", 4, {.when = Fault::When::kHang});
  v1::GenerateRequest request;
  request.set_max_tokens(8);
  int tokens = 0;

  const auto end = session.Generate(
      request, [&](const v1::GenerateReply& r) { tokens += r.tokens_size(); });

  ASSERT_TRUE(end.ok()) << end.status();
  EXPECT_EQ(tokens, 8);
  EXPECT_EQ(end->resumes, 1);
}

TEST_F(ExactlyOnceTest, AGenerationOfNoTokensAndAnUnknownSession) {
  Session session = Open();
  const auto ignore = [](const v1::GenerateReply&) {};

  const auto end = session.Generate(v1::GenerateRequest(), ignore);
  ASSERT_TRUE(end.ok()) << end.status();
  EXPECT_EQ(end->position, 0u);

  v1::GenerateRequest request;
  request.set_session_id("nobody");
  EXPECT_EQ(ReasonOf(Generate(client(), request, ignore).status()),
            "SESSION_NOT_FOUND");
}

TEST_F(SessionTest, ClosesWhenItGoesUnlessDetachedOrMoved) {
  std::string closed;
  std::string detached;
  std::string forked;
  {
    Session session = Open();
    closed = session.id();
    Session moved = std::move(session);
    EXPECT_EQ(moved.id(), closed);
    auto fork = moved.Fork();
    ASSERT_TRUE(fork.ok());
    forked = fork->id();
    Session other = Open();
    detached = other.id();
    other.Detach();
    EXPECT_TRUE(server_.is_open(closed));
  }
  EXPECT_FALSE(server_.is_open(closed));
  EXPECT_FALSE(server_.is_open(forked));
  EXPECT_TRUE(server_.is_open(detached));
  {
    const auto attached = Session::Attach(client(), detached);
    ASSERT_TRUE(attached.ok());
    EXPECT_EQ(attached->model(), "fake");
  }
  EXPECT_TRUE(server_.is_open(detached)) << "attaching does not own";
}

TEST_F(SessionTest, IsClosedEvenAfterAnInterrupt) {
  options_.cancellation = std::make_shared<Cancellation>();
  std::string id;
  {
    Session session = Open();
    id = session.id();
    options_.cancellation->Cancel();
  }
  EXPECT_FALSE(server_.is_open(id));
}

}  // namespace
}  // namespace weir::client
