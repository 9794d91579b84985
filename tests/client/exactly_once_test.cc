// SPDX-License-Identifier: Apache-2.0
//
// Whatever call fails, and on whichever side of its effect: the log ends up
// with each token once, and the sums are those of an undisturbed run.
#include <gtest/gtest.h>

#include <cmath>
#include <numeric>
#include <set>

#include "client/errors.h"
#include "client/session.h"
#include "tests/client/fake_server.h"

namespace weir::client {
namespace {

ClientOptions Options(const FakeServer& server) {
  ClientOptions options;
  options.target = server.target();
  options.call_deadline = absl::Seconds(5);
  options.retry.backoff_initial = absl::Milliseconds(1);
  options.retry.backoff_max = absl::Milliseconds(4);
  return options;
}

v1::OpenSessionRequest OpenFake() {
  v1::OpenSessionRequest request;
  request.set_model("fake");
  return request;
}

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

struct Side {
  const char* name;
  Fault::When when;
};
constexpr Side kSides[] = {{"before", Fault::When::kBefore},
                           {"after", Fault::When::kAfter}};

TEST(ExactlyOnceTest, UnaryAppendsWithAFailureAtEveryCallOnBothSides) {
  FakeServer server;
  Client client(Options(server));
  const std::vector<uint32_t> document = Document(60);
  for (const Side& side : kSides) {
    for (int failing = 1; failing <= 6; ++failing) {
      SCOPED_TRACE(std::string(side.name) + " " + std::to_string(failing));
      auto session = Session::Open(client, OpenFake());
      ASSERT_TRUE(session.ok());
      server.set_plan([&](std::string_view call, int nth) {
        return call == "Append" && nth == failing ? Fault{.when = side.when}
                                                  : Fault();
      });
      double sum = 0;
      for (size_t at = 0; at < document.size(); at += 10) {
        const auto reply =
            session->Append({document.data() + at, 10}, {.want_scores = true});
        ASSERT_TRUE(reply.ok()) << reply.status();
        for (const float score : reply->scores()) {
          if (!std::isnan(score)) sum += score;
        }
      }
      EXPECT_EQ(server.calls("Append"), 7);
      EXPECT_EQ(server.log(session->id()), document);
      EXPECT_DOUBLE_EQ(sum, SumOfScores(document));
      EXPECT_EQ(session->position(), document.size());
    }
  }
}

TEST(ExactlyOnceTest, AStreamCutAtEveryAppendOnBothSides) {
  FakeServer server;
  Client client(Options(server));
  const std::vector<uint32_t> document = Document(95);
  StreamAppendOptions options{.append_tokens = 10, .window = 4};
  for (const bool want_scores : {true, false}) {
    options.want_scores = want_scores;
    for (const Side& side : kSides) {
      for (int failing = 1; failing <= 10; ++failing) {
        SCOPED_TRACE(std::string(side.name) + " " + std::to_string(failing));
        auto session = Session::Open(client, OpenFake());
        ASSERT_TRUE(session.ok());
        server.set_plan([&](std::string_view call, int nth) {
          return call == "Append" && nth == failing ? Fault{.when = side.when}
                                                    : Fault();
        });
        uint64_t next = 0;
        const auto totals = session->Stream(
            options,
            From(document),
            [&](const AppendedPart& part, const StreamTotals&) {
              EXPECT_EQ(part.start, next) << "in order, each once";
              next = part.start + part.tokens;
            });
        ASSERT_TRUE(totals.ok()) << totals.status();
        EXPECT_EQ(server.log(session->id()), document);
        EXPECT_EQ(totals->position, document.size());
        EXPECT_EQ(totals->tokens, document.size());
        EXPECT_EQ(totals->resumes, 1);
        EXPECT_EQ(totals->scored_tokens, want_scores ? document.size() - 1 : 0);
        EXPECT_DOUBLE_EQ(totals->sum_log_prob,
                         want_scores ? SumOfScores(document) : 0);
      }
    }
  }
}

TEST(ExactlyOnceTest, AStreamThatBreaksAtEveryThirdAppendStillEnds) {
  FakeServer server;
  Client client(Options(server));
  const std::vector<uint32_t> document = Document(400);
  auto session = Session::Open(client, OpenFake());
  ASSERT_TRUE(session.ok());
  server.set_plan([](std::string_view call, int nth) {
    if (call != "Append" || nth % 3 != 0) return Fault();
    return Fault{.when =
                     nth % 2 == 0 ? Fault::When::kBefore : Fault::When::kAfter};
  });

  const auto totals =
      session->Stream({.append_tokens = 10, .window = 4},
                      From(document),
                      [](const AppendedPart&, const StreamTotals&) {});

  ASSERT_TRUE(totals.ok()) << totals.status();
  EXPECT_EQ(server.log(session->id()), document);
  EXPECT_DOUBLE_EQ(totals->sum_log_prob, SumOfScores(document));
  EXPECT_GT(totals->resumes, 8);
  EXPECT_GT(server.duplicate_tokens(), 0u);
}

TEST(ExactlyOnceTest, AnItemRefusedForNowIsSentAgainFromThere) {
  FakeServer server;
  Client client(Options(server));
  const std::vector<uint32_t> document = Document(100);
  auto session = Session::Open(client, OpenFake());
  ASSERT_TRUE(session.ok());
  server.set_plan([](std::string_view call, int nth) {
    if (call != "Append" || nth != 4) return Fault();
    return Fault{.when = Fault::When::kBefore,
                 .status = ToGrpc(Refusal(grpc::StatusCode::RESOURCE_EXHAUSTED,
                                          "QUEUE_FULL",
                                          {},
                                          absl::Milliseconds(1)))};
  });

  const auto totals =
      session->Stream({.append_tokens = 10, .window = 8},
                      From(document),
                      [](const AppendedPart&, const StreamTotals&) {});

  ASSERT_TRUE(totals.ok()) << totals.status();
  EXPECT_EQ(server.log(session->id()), document);
}

TEST(ExactlyOnceTest, AConflictEndsAStreamWithItsReason) {
  FakeServer server;
  Client client(Options(server));
  const std::vector<uint32_t> document = Document(100);
  auto session = Session::Open(client, OpenFake());
  ASSERT_TRUE(session.ok());
  ASSERT_TRUE(session->Append(document).ok());
  std::vector<uint32_t> other = document;
  other[55] ^= 1;

  const absl::Status status =
      StreamAppend(client,
                   session->id(),
                   0,
                   {.append_tokens = 10},
                   From(other),
                   [](const AppendedPart&, const StreamTotals&) {})
          .status();

  EXPECT_TRUE(absl::IsAborted(status)) << status;
  EXPECT_EQ(ReasonOf(status), "POSITION_CONFLICT");
  EXPECT_EQ(NumberOf(status, "position"), 100u);
  EXPECT_EQ(server.log(session->id()), document);
}

TEST(ExactlyOnceTest, NothingIsAppendedAfterAConflictAtTheLogsVeryEnd) {
  FakeServer server;
  Client client(Options(server));
  const std::vector<uint32_t> document = Document(100);
  std::vector<uint32_t> other = Document(300);
  other[95] ^= 1;
  for (int round = 0; round < 20; ++round) {
    auto session = Session::Open(client, OpenFake());
    ASSERT_TRUE(session.ok());
    ASSERT_TRUE(session->Append(document).ok());

    const absl::Status status =
        StreamAppend(client,
                     session->id(),
                     0,
                     {.append_tokens = 10},
                     From(other),
                     [](const AppendedPart&, const StreamTotals&) {})
            .status();

    EXPECT_EQ(ReasonOf(status), "POSITION_CONFLICT");
    EXPECT_EQ(server.log(session->id()), document);
  }
}

TEST(ExactlyOnceTest, AHangingStreamIsOpenedAgain) {
  FakeServer server;
  ClientOptions client_options = Options(server);
  client_options.call_deadline = absl::Milliseconds(200);
  Client client(client_options);
  const std::vector<uint32_t> document = Document(50);
  auto session = Session::Open(client, OpenFake());
  ASSERT_TRUE(session.ok());
  server.set_plan([](std::string_view call, int nth) {
    return call == "Append" && nth == 3 ? Fault{.when = Fault::When::kHang}
                                        : Fault();
  });

  const auto totals =
      session->Stream({.append_tokens = 10, .window = 2},
                      From(document),
                      [](const AppendedPart&, const StreamTotals&) {});

  ASSERT_TRUE(totals.ok()) << totals.status();
  EXPECT_EQ(server.log(session->id()), document);
  EXPECT_EQ(totals->resumes, 1);
}

TEST(ExactlyOnceTest, ASessionThatWentBackIsDataLossAndNotAGap) {
  FakeServer server;
  Client client(Options(server));
  const std::vector<uint32_t> document = Document(100);
  auto session = Session::Open(client, OpenFake());
  ASSERT_TRUE(session.ok());
  server.set_plan([&](std::string_view call, int nth) {
    return call == "Append" && nth == 5 ? Fault{.when = Fault::When::kBefore}
                                        : Fault();
  });

  const absl::Status status =
      session
          ->Stream({.append_tokens = 10, .window = 1},
                   From(document),
                   [&](const AppendedPart&, const StreamTotals& totals) {
                     if (totals.position == 40) {
                       server.Truncate(session->id(), 20);
                     }
                   })
          .status();

  EXPECT_TRUE(absl::IsDataLoss(status)) << status;
}

TEST(ExactlyOnceTest, TheWindowBoundsWhatIsUnanswered) {
  FakeServer server;
  Client client(Options(server));
  const std::vector<uint32_t> document = Document(1000);
  auto session = Session::Open(client, OpenFake());
  ASSERT_TRUE(session.ok());
  size_t read = 0;
  size_t most = 0;
  uint64_t answered = 0;
  const TokenSource source = From(document);

  const auto totals = session->Stream(
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
  EXPECT_EQ(server.streams(), 1);
}

TEST(ExactlyOnceTest, ShortReadsAndNoneYetAndAnEmptySource) {
  FakeServer server;
  Client client(Options(server));
  const std::vector<uint32_t> document = Document(23);
  auto session = Session::Open(client, OpenFake());
  ASSERT_TRUE(session.ok());
  const TokenSource seven = From(document, 7);
  bool none = false;
  const auto ignore = [](const AppendedPart&, const StreamTotals&) {};

  const auto totals = session->Stream(
      {.append_tokens = 10},
      [&](std::span<uint32_t> room) -> absl::StatusOr<TokenRead> {
        none = !none;
        return none ? TokenRead() : seven(room);
      },
      ignore);
  ASSERT_TRUE(totals.ok()) << totals.status();
  EXPECT_EQ(server.log(session->id()), document);

  const auto empty = session->Stream(
      {}, [](std::span<uint32_t>) { return TokenRead{.end = true}; }, ignore);
  ASSERT_TRUE(empty.ok());
  EXPECT_EQ(empty->position, document.size());
  EXPECT_EQ(server.streams(), 1) << "nothing to send opens no stream";
}

TEST(ExactlyOnceTest, AFailingSourceEndsTheStreamWithItsError) {
  FakeServer server;
  Client client(Options(server));
  auto session = Session::Open(client, OpenFake());
  ASSERT_TRUE(session.ok());

  const absl::Status status =
      session
          ->Stream(
              {},
              [](std::span<uint32_t>) -> absl::StatusOr<TokenRead> {
                return absl::UnavailableError("the disk");
              },
              [](const AppendedPart&, const StreamTotals&) {})
          .status();

  EXPECT_EQ(status.message(), "the disk");
}

TEST(ExactlyOnceTest, AGenerationCutAtEveryTokenOnBothSides) {
  FakeServer server;
  Client client(Options(server));
  for (const Side& side : kSides) {
    for (int failing = 1; failing <= 12; ++failing) {
      SCOPED_TRACE(std::string(side.name) + " " + std::to_string(failing));
      auto session = Session::Open(client, OpenFake());
      ASSERT_TRUE(session.ok());
      ASSERT_TRUE(session->AppendText("abc").ok());
      server.set_plan([&](std::string_view call, int nth) {
        return call == "Generate" && nth == failing ? Fault{.when = side.when}
                                                    : Fault();
      });
      v1::GenerateRequest request;
      request.set_max_tokens(12);
      std::vector<uint32_t> tokens;
      const auto end =
          session->Generate(request, [&](const v1::GenerateReply& reply) {
            tokens.insert(
                tokens.end(), reply.tokens().begin(), reply.tokens().end());
          });
      ASSERT_TRUE(end.ok()) << end.status();
      std::vector<uint32_t> expected;
      for (uint64_t at = 3; at < 15; ++at) {
        expected.push_back(FakeServer::GeneratedAt(at));
      }
      EXPECT_EQ(tokens, expected);
      EXPECT_EQ(end->begin, 3u);
      EXPECT_EQ(end->position, 15u);
      EXPECT_EQ(session->position(), 15u);
      EXPECT_EQ(end->finish_reason, v1::FINISH_REASON_LENGTH);
      EXPECT_EQ(end->resumes, 1);
      EXPECT_EQ(server.log(session->id()).size(), 15u);
    }
  }
}

TEST(ExactlyOnceTest, AHangingGenerationIsResumed) {
  FakeServer server;
  ClientOptions options = Options(server);
  options.call_deadline = absl::Milliseconds(200);
  Client client(options);
  auto session = Session::Open(client, OpenFake());
  ASSERT_TRUE(session.ok());
  server.set_plan([](std::string_view call, int nth) {
    return call == "Generate" && nth == 4 ? Fault{.when = Fault::When::kHang}
                                          : Fault();
  });
  v1::GenerateRequest request;
  request.set_max_tokens(8);
  int tokens = 0;

  const auto end = session->Generate(
      request, [&](const v1::GenerateReply& r) { tokens += r.tokens_size(); });

  ASSERT_TRUE(end.ok()) << end.status();
  EXPECT_EQ(tokens, 8);
  EXPECT_EQ(end->resumes, 1);
}

TEST(ExactlyOnceTest, AGenerationOfNoTokensAndAnUnknownSession) {
  FakeServer server;
  Client client(Options(server));
  auto session = Session::Open(client, OpenFake());
  ASSERT_TRUE(session.ok());
  const auto ignore = [](const v1::GenerateReply&) {};

  const auto end = session->Generate(v1::GenerateRequest(), ignore);
  ASSERT_TRUE(end.ok()) << end.status();
  EXPECT_EQ(end->position, 0u);

  v1::GenerateRequest request;
  request.set_session_id("nobody");
  EXPECT_EQ(ReasonOf(Generate(client, request, ignore).status()),
            "SESSION_NOT_FOUND");
}

TEST(SessionTest, ClosesWhenItGoesUnlessDetachedOrMoved) {
  FakeServer server;
  Client client(Options(server));
  std::string closed;
  std::string detached;
  std::string forked;
  {
    auto session = Session::Open(client, OpenFake());
    ASSERT_TRUE(session.ok());
    closed = session->id();
    Session moved = *std::move(session);
    EXPECT_EQ(moved.id(), closed);
    auto fork = moved.Fork();
    ASSERT_TRUE(fork.ok());
    forked = fork->id();
    auto other = Session::Open(client, OpenFake());
    ASSERT_TRUE(other.ok());
    detached = other->id();
    other->Detach();
    EXPECT_TRUE(server.is_open(closed));
  }
  EXPECT_FALSE(server.is_open(closed));
  EXPECT_FALSE(server.is_open(forked));
  EXPECT_TRUE(server.is_open(detached));
  {
    const auto attached = Session::Attach(client, detached);
    ASSERT_TRUE(attached.ok());
    EXPECT_EQ(attached->model(), "fake");
  }
  EXPECT_TRUE(server.is_open(detached)) << "attaching does not own";
}

TEST(SessionTest, IsClosedEvenAfterAnInterrupt) {
  FakeServer server;
  ClientOptions options = Options(server);
  options.cancellation = std::make_shared<Cancellation>();
  Client client(options);
  std::string id;
  {
    auto session = Session::Open(client, OpenFake());
    ASSERT_TRUE(session.ok());
    id = session->id();
    options.cancellation->Cancel();
  }
  EXPECT_FALSE(server.is_open(id));
}

}  // namespace
}  // namespace weir::client
