// SPDX-License-Identifier: Apache-2.0
#include "client/retry.h"

#include <gtest/gtest.h>

#include <thread>

#include "absl/synchronization/notification.h"
#include "client/client.h"
#include "client/errors.h"
#include "client/session.h"
#include "google/rpc/error_details.pb.h"
#include "google/rpc/status.pb.h"
#include "tests/client/fake_server.h"

namespace weir::client {
namespace {

ClientOptions Options(const FakeServer& server) {
  ClientOptions options;
  options.target = server.target();
  options.retry.backoff_initial = absl::Milliseconds(1);
  options.retry.backoff_max = absl::Milliseconds(4);
  return options;
}

// The first call of `name` fails so, later ones do not.
FaultPlan FirstFails(std::string name, Fault fault) {
  return [name = std::move(name), fault](std::string_view call, int nth) {
    return call == name && nth == 1 ? fault : Fault();
  };
}

Fault Before(grpc::Status status) {
  return {.when = Fault::When::kBefore, .status = std::move(status)};
}

void OpenS(Client& client) {
  v1::OpenSessionRequest open;
  open.set_model("fake");
  open.set_session_id("s");
  ASSERT_TRUE(client.OpenSession(open).ok());
}

// The first append of session s.
v1::AppendRequest AppendOf(uint32_t token) {
  v1::AppendRequest append;
  append.set_session_id("s");
  append.set_expected_position(0);
  append.add_tokens(token);
  return append;
}

absl::Status WithCode(absl::StatusCode code) {
  return absl::Status(code, "message");
}

TEST(RetryTest, MatrixOfCodesAndKindsOfCall) {
  struct Row {
    absl::StatusCode code;
    bool safe;
    bool by_position;
  };
  const Row rows[] = {
      {absl::StatusCode::kUnavailable, true, true},
      {absl::StatusCode::kDeadlineExceeded, false, true},
      {absl::StatusCode::kCancelled, false, true},
      {absl::StatusCode::kAborted, false, false},
      {absl::StatusCode::kOutOfRange, false, false},
      {absl::StatusCode::kInvalidArgument, false, false},
      {absl::StatusCode::kNotFound, false, false},
      {absl::StatusCode::kAlreadyExists, false, false},
      {absl::StatusCode::kFailedPrecondition, false, false},
      {absl::StatusCode::kResourceExhausted, false, false},
      {absl::StatusCode::kInternal, false, false},
      {absl::StatusCode::kUnimplemented, false, false},
      {absl::StatusCode::kDataLoss, false, false},
      {absl::StatusCode::kOk, false, false},
  };
  for (const Row& row : rows) {
    SCOPED_TRACE(static_cast<int>(row.code));
    EXPECT_FALSE(MayRetry(WithCode(row.code), Repeat::kNever));
    EXPECT_EQ(MayRetry(WithCode(row.code), Repeat::kSafe), row.safe);
    EXPECT_EQ(MayRetry(WithCode(row.code), Repeat::kExactlyOnce),
              row.by_position);
  }
}

TEST(RetryTest, ARefusalWithRetryInfoMayBeTriedAgainAndOneWithoutMayNot) {
  const absl::Status with =
      FromItem(Refusal(grpc::StatusCode::RESOURCE_EXHAUSTED,
                       "QUEUE_FULL",
                       {},
                       absl::Seconds(0)));
  const absl::Status without =
      FromItem(Refusal(grpc::StatusCode::RESOURCE_EXHAUSTED, "QUEUE_FULL"));

  EXPECT_TRUE(MayRetry(with, Repeat::kSafe));
  EXPECT_TRUE(MayRetry(with, Repeat::kExactlyOnce));
  EXPECT_FALSE(MayRetry(with, Repeat::kNever));
  EXPECT_FALSE(MayRetry(without, Repeat::kExactlyOnce));
}

TEST(RetryTest, BackoffDoublesWithJitterUpToItsMaximum) {
  const absl::Time start = absl::UnixEpoch();
  RetryPolicy policy;
  policy.attempts_max = 10;
  policy.backoff_initial = absl::Milliseconds(100);
  policy.backoff_max = absl::Milliseconds(400);
  Backoff backoff(policy, start);
  const absl::Status status = absl::UnavailableError("");

  for (const int full : {100, 200, 400, 400, 400}) {
    const absl::Duration wait = backoff.Next(status, start);
    EXPECT_GE(wait, absl::Milliseconds(full / 2));
    EXPECT_LE(wait, absl::Milliseconds(full));
  }
}

TEST(RetryTest, BackoffEndsByNumberAndByTimeAndStartsAnewAfterProgress) {
  const absl::Time start = absl::UnixEpoch();
  RetryPolicy policy;
  policy.attempts_max = 3;
  policy.time_max = absl::Seconds(10);
  Backoff backoff(policy, start);
  const absl::Status status = absl::UnavailableError("");

  EXPECT_LT(backoff.Next(status, start), absl::InfiniteDuration());
  EXPECT_LT(backoff.Next(status, start), absl::InfiniteDuration());
  EXPECT_EQ(backoff.Next(status, start), absl::InfiniteDuration());
  backoff.Reset(start);
  EXPECT_LT(backoff.Next(status, start), absl::InfiniteDuration());
  EXPECT_EQ(backoff.Next(status, start + absl::Seconds(10)),
            absl::InfiniteDuration());
}

TEST(RetryTest, BackoffWaitsAtLeastAsLongAsTheServerSays) {
  const absl::Time start = absl::UnixEpoch();
  Backoff backoff(RetryPolicy(), start);
  const absl::Status status = FromItem(Refusal(grpc::StatusCode::UNAVAILABLE,
                                               "SERVER_DRAINING",
                                               {},
                                               absl::Milliseconds(700)));

  EXPECT_EQ(backoff.Next(status, start), absl::Milliseconds(700));
}

TEST(RetryTest, OpenIsTriedAgainOnlyWithAnId) {
  FakeServer server;
  Client client(Options(server));
  v1::OpenSessionRequest request;
  request.set_model("fake");
  Fault after{.when = Fault::When::kAfter};

  server.set_plan(FirstFails("OpenSession", after));
  EXPECT_TRUE(absl::IsUnavailable(client.OpenSession(request).status()));
  EXPECT_EQ(server.calls("OpenSession"), 1);

  server.set_plan(FirstFails("OpenSession", after));
  request.set_session_id("mine");
  ASSERT_TRUE(client.OpenSession(request).ok());
  EXPECT_EQ(server.calls("OpenSession"), 2);
}

TEST(RetryTest, ReadsAndClosesAndForksSurviveALostReply) {
  FakeServer server;
  Client client(Options(server));
  OpenS(client);
  const Fault after{.when = Fault::When::kAfter};
  const auto only = [&](std::string name) {
    server.set_plan(FirstFails(std::move(name), after));
  };

  only("GetSession");
  EXPECT_TRUE(client.GetSession("s").ok());
  only("ListSessions");
  EXPECT_EQ(client.ListSessions()->size(), 1u);
  only("GetModel");
  EXPECT_EQ(client.GetModel("fake")->vocabulary(), 256u);
  only("ListModels");
  EXPECT_EQ(client.ListModels()->size(), 1u);
  only("Fork");
  v1::ForkRequest fork;
  fork.set_session_id("s");
  const auto forked = client.Fork(fork);
  ASSERT_TRUE(forked.ok()) << forked.status();
  EXPECT_TRUE(forked->duplicate()) << "the second try found the first's fork";
  EXPECT_EQ(client.ListSessions()->size(), 2u);
  only("CloseSession");
  EXPECT_TRUE(client.CloseSession("s").ok());
  EXPECT_FALSE(server.is_open("s"));
}

TEST(RetryTest, ADeadlineEndsAReadAndNotAnAppend) {
  FakeServer server;
  Client client(Options(server));
  OpenS(client);
  const grpc::Status late(grpc::StatusCode::DEADLINE_EXCEEDED, "late");

  server.set_plan(FirstFails("GetSession", Before(late)));
  EXPECT_TRUE(absl::IsDeadlineExceeded(client.GetSession("s").status()));
  server.set_plan(FirstFails("Append", Before(late)));
  EXPECT_TRUE(client.Append(AppendOf(7)).ok());
}

TEST(RetryTest, ATryOfAnAppendGetsAllTheTimeLeft) {
  FakeServer server;
  ClientOptions options = Options(server);
  options.call_deadline = absl::Milliseconds(50);
  Client client(options);
  OpenS(client);
  server.set_plan(FirstFails(
      "Append", {.when = Fault::When::kSlow, .slow = absl::Milliseconds(300)}));

  const auto reply = client.Append(AppendOf(7));

  ASSERT_TRUE(reply.ok()) << reply.status();
  EXPECT_FALSE(reply->duplicate());
  EXPECT_EQ(server.calls("Append"), 1);
}

TEST(RetryTest, AForkGetsAllTheTimeAndIsSentAgainIfNobodyKnowsOfIt) {
  FakeServer server;
  ClientOptions options = Options(server);
  options.call_deadline = absl::Milliseconds(50);
  Client client(options);
  OpenS(client);
  v1::ForkRequest fork;
  fork.set_session_id("s");
  for (const Fault& fault :
       {Fault{.when = Fault::When::kSlow, .slow = absl::Milliseconds(300)},
        Fault{.when = Fault::When::kAfter,
        .status = {grpc::StatusCode::DEADLINE_EXCEEDED, "late"}}}) {
    server.set_plan(FirstFails("Fork", fault));
    const auto reply = client.Fork(fork);
    ASSERT_TRUE(reply.ok()) << reply.status();
    EXPECT_EQ(reply->duplicate(), fault.when == Fault::When::kAfter);
  }
  EXPECT_EQ(client.ListSessions()->size(), 3u);
}

TEST(RetryTest, AnAppendThatHangsEndsWithItsTime) {
  FakeServer server;
  ClientOptions options = Options(server);
  options.retry.time_max = absl::Milliseconds(100);
  Client client(options);
  OpenS(client);
  server.set_plan(FirstFails("Append", {.when = Fault::When::kHang}));

  EXPECT_TRUE(absl::IsDeadlineExceeded(client.Append(AppendOf(7)).status()));
}

TEST(RetryTest, AnAppendRefusedByItsDeadlineIsNotSentAgain) {
  FakeServer server;
  Client client(Options(server));
  OpenS(client);
  server.set_plan(
      FirstFails("Append",
                 Before(ToGrpc(Refusal(grpc::StatusCode::DEADLINE_EXCEEDED,
                                       "DEADLINE_IN_QUEUE")))));

  const absl::Status status = client.Append(AppendOf(7)).status();

  EXPECT_EQ(ReasonOf(status), "DEADLINE_IN_QUEUE");
  EXPECT_EQ(server.calls("Append"), 1);
}

TEST(RetryTest, TriesAreBoundedAndTheLastErrorIsReturned) {
  FakeServer server;
  ClientOptions options = Options(server);
  options.retry.attempts_max = 4;
  Client client(options);
  server.set_plan([](std::string_view, int) {
    return Before(
        ToGrpc(Refusal(grpc::StatusCode::UNAVAILABLE, "SERVER_DRAINING")));
  });

  const absl::Status status = client.GetSession("s").status();

  EXPECT_EQ(server.calls("GetSession"), 4);
  EXPECT_EQ(ReasonOf(status), "SERVER_DRAINING");
}

TEST(RetryTest, ARefusalCarriesReasonAndMetadata) {
  FakeServer server;
  Client client(Options(server));

  const absl::Status status = client.GetSession("nobody").status();

  EXPECT_TRUE(absl::IsNotFound(status));
  EXPECT_EQ(ReasonOf(status), "SESSION_NOT_FOUND");
  EXPECT_EQ(MetadataOf(status).at("sessionId"), "nobody");
  EXPECT_EQ(NumberOf(status, "sessionId"), std::nullopt);
  EXPECT_EQ(RetryDelayOf(status), std::nullopt);
  EXPECT_EQ(server.calls("GetSession"), 1) << "refused is not tried again";
}

TEST(RetryTest, CancellationEndsACallAndAWait) {
  FakeServer server;
  ClientOptions options = Options(server);
  options.retry.backoff_initial = absl::Seconds(60);
  options.retry.backoff_max = absl::Seconds(60);
  options.retry.time_max = absl::Seconds(600);
  options.call_deadline = absl::Seconds(600);
  options.cancellation = std::make_shared<Cancellation>();
  Client client(options);
  for (const Fault::When when : {Fault::When::kHang, Fault::When::kBefore}) {
    options.cancellation->Reset();
    absl::Notification called;
    server.set_plan([&](std::string_view, int nth) {
      if (nth == 1) called.Notify();
      return Fault{.when = when};
    });
    std::thread canceller([&] {
      called.WaitForNotification();
      options.cancellation->Cancel();
    });
    EXPECT_FALSE(client.GetSession("s").ok());
    canceller.join();
    EXPECT_EQ(server.calls("GetSession"), 1);
  }
  EXPECT_TRUE(absl::IsCancelled(client.ListModels().status()));
  EXPECT_EQ(server.calls("ListModels"), 0) << "nothing new is begun";
}

TEST(RetryTest, ConnectSaysAtOnceThatNobodyListens) {
  std::string target;
  {
    FakeServer server;
    target = server.target();
    ClientOptions options;
    options.target = target;
    EXPECT_TRUE(Client(options).Connect(absl::Seconds(10)).ok());
  }
  ClientOptions options;
  options.target = target;
  const absl::Time start = absl::Now();
  EXPECT_TRUE(absl::IsUnavailable(Client(options).Connect(absl::Seconds(60))));
  EXPECT_LT(absl::Now() - start, absl::Seconds(30));
}

TEST(ErrorsTest, ASessionThatExpiredIsNotOpenEither) {
  const auto refused = [](const char* reason) {
    google::rpc::Status item;
    item.set_code(5);
    google::rpc::ErrorInfo info;
    info.set_reason(reason);
    item.add_details()->PackFrom(info);
    return FromItem(item);
  };

  EXPECT_TRUE(IsNotOpen(refused("SESSION_NOT_FOUND")));
  EXPECT_TRUE(IsNotOpen(refused("SESSION_EXPIRED")));
  EXPECT_FALSE(IsNotOpen(refused("MODEL_NOT_FOUND")));
  EXPECT_FALSE(IsNotOpen(absl::NotFoundError("a proxy's")));
}

}  // namespace
}  // namespace weir::client
