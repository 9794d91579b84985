// SPDX-License-Identifier: Apache-2.0
//
// Clients that misbehave on the connection: they send what is no request, stop
// halfway, do not read, or take every descriptor.
#include <arpa/inet.h>
#include <poll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>

#include <random>
#include <string>
#include <thread>
#include <vector>

#include "absl/strings/str_cat.h"
#include "google/rpc/error_details.pb.h"
#include "google/rpc/status.pb.h"
#include "gtest/gtest.h"
#include "tests/integration/raw_http2.h"
#include "tests/integration/server_fixture.h"

namespace weir::integration {
namespace {

using support::FakeEngine;

constexpr const char* kAppend = "/weir.v1.Sessions/Append";
constexpr const char* kGenerate = "/weir.v1.Sessions/Generate";
constexpr const char* kStream = "/weir.v1.Sessions/Stream";

// A bare connection; -1 if none can be had.
int Dial(uint16_t port) {
  const int socket = ::socket(AF_INET, SOCK_STREAM, 0);
  if (socket < 0) return -1;
  timeval limit{10, 0};
  setsockopt(socket, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof limit);
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_port = htons(port);
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  if (connect(socket, reinterpret_cast<sockaddr*>(&address), sizeof address) ==
      0) {
    return socket;
  }
  close(socket);
  return -1;
}

// Reads until the other side closes; false if it does not.
bool ReadToEnd(int socket) {
  char buffer[4096];
  for (;;) {
    const ssize_t got = recv(socket, buffer, sizeof buffer, 0);
    if (got == 0) return true;
    if (got < 0) return errno == ECONNRESET;
  }
}

class LimitsTest : public ServerFixture {
 protected:
  LimitsTest() { Open("a", "hello"); }

  uint64_t Position(const std::string& id) {
    v1::GetSessionRequest request;
    request.set_session_id(id);
    grpc::ClientContext context;
    v1::Session session;
    const grpc::Status status =
        sessions_->GetSession(&context, request, &session);
    EXPECT_TRUE(status.ok()) << status.error_message();
    return session.position();
  }
  static std::string Received(const char* method, const char* type) {
    return absl::StrCat("grpc_server_msg_received_total{grpc_method=\"",
                        method,
                        "\",grpc_service=\"weir.v1.Sessions\",grpc_type=\"",
                        type,
                        "\"}");
  }
  static std::string Generation(const std::string& request_id) {
    v1::GenerateRequest request;
    request.set_session_id("a");
    request.set_request_id(request_id);
    request.set_expected_position(5);
    request.set_max_tokens(10'000);
    return Framed(request.SerializeAsString());
  }
};

TEST_F(LimitsTest, A1WhatIsNoHttp2IsClosedAndNobodyElseNotices) {
  constexpr uint32_t kSeed = 3;
  SCOPED_TRACE(kSeed);
  std::mt19937 random(kSeed);
  std::vector<std::string> noises = {
      "GET / HTTP/1.1\r\nHost: x\r\n\r\n",
      "\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",  // a TLS hello
      "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\nnonsense after the preface"};
  for (int n = 0; n < 30; ++n) {
    std::string noise;
    while (noise.size() < 600) noise += static_cast<char>(random());
    noises.push_back(noise);
  }
  for (const std::string& noise : noises) {
    const int socket = Dial(port());
    ASSERT_GE(socket, 0);
    send(socket, noise.data(), noise.size(), MSG_NOSIGNAL);
    shutdown(socket, SHUT_WR);
    EXPECT_TRUE(ReadToEnd(socket));
    close(socket);
  }
  EXPECT_EQ(Position("a"), 5u);
}

TEST_F(LimitsTest, A22ACallThatBreaksOffHalfwayLeavesTheSessionAsItWas) {
  const std::string body =
      Framed(MakeAppend("a", 5, std::string(3000, 'x')).SerializeAsString());
  for (const size_t sent : {size_t{1}, size_t{5}, body.size() / 2}) {
    RawHttp2 reset(port());
    reset.Send({.path = kAppend,
                .body = body.substr(0, sent),
                .end_stream = false,
                .abandon = true});
    const RawReply half_closed =
        RawHttp2(port()).Call({.path = kAppend, .body = body.substr(0, sent)});
    EXPECT_EQ(half_closed.status(), 3);
    EXPECT_EQ(half_closed.reason(), "TRUNCATED_MESSAGE");
    // The connection ends with the object.
    RawHttp2(port()).Send(
        {.path = kAppend, .body = body.substr(0, sent), .end_stream = false});
  }
  // Some are gone before they have become calls.
  EXPECT_TRUE(Eventually([&] {
    return Metric(
               "grpc_server_handled_total{grpc_code=\"Canceled\",grpc_method="
               "\"Append\",grpc_service=\"weir.v1.Sessions\",grpc_type="
               "\"unary\"}") >= 1;
  }));
  EXPECT_EQ(Position("a"), 5u);
}

TEST_F(LimitsTest, A22AResetBehindAWholeMessageAppliesItOrNot) {
  const std::string body =
      Framed(MakeAppend("a", 5, "xyz").SerializeAsString());
  for (int n = 0; n < 50; ++n) {
    RawHttp2 client(port());
    client.Send({.path = kAppend, .body = body, .abandon = true});
  }
  grpc::ClientContext context;
  v1::AppendReply reply;

  // Whatever became of them: once more is never wrong.
  const grpc::Status status =
      sessions_->Append(&context, MakeAppend("a", 5, "xyz"), &reply);

  EXPECT_TRUE(status.ok()) << status.error_message();
  EXPECT_EQ(reply.position(), 8u);
  EXPECT_EQ(engine_->hash(engine_->held().at(0)),
            FakeEngine::Hash(
                std::vector<uint32_t>{'h', 'e', 'l', 'l', 'o', 'x', 'y', 'z'}));
}

// gRPC's core takes a message in before it hands it on, in no more memory than
// its flow control allows; our clock ends the call.
TEST_F(LimitsTest, A24AMessageThatNeverEndsIsGivenUp) {
  RawHttp2 client(port());
  const uint32_t stream = client.Send({.path = kAppend,
                                       .body = FramedAs(0xffffffff, "begun"),
                                       .end_stream = false});
  ASSERT_TRUE(Eventually([&] {
    return Metric(
               "grpc_server_started_total{grpc_method=\"Append\","
               "grpc_service=\"weir.v1.Sessions\",grpc_type=\"unary\"}") == 2;
  }));
  clock_.Advance(absl::Seconds(31));

  const RawReply reply = client.Wait(stream);

  EXPECT_EQ(reply.status(), 4) << reply.message();
  EXPECT_EQ(reply.reason(), "IDLE_STREAM");
  EXPECT_TRUE(Eventually([&] {
    return Metric("weir_errors_total{reason=\"IDLE_STREAM\"}") == 1;
  }));
}

TEST_F(LimitsTest, A20AClientThatDoesNotReadPausesItsGenerationThenLosesIt) {
  RawHttp2 client(port());
  client.SetWindow(0);
  const uint32_t stream =
      client.Send({.path = kGenerate, .body = Generation("g")});
  uint64_t before = 0;
  uint64_t paused_at = 5;
  ASSERT_TRUE(Eventually([&] {
    before = std::exchange(paused_at, Position("a"));
    return paused_at > 5 && before == paused_at;
  }));
  // 64 events of one token, and the one that is on its way.
  EXPECT_LE(paused_at, 5u + 65);
  grpc::ClientContext busy;
  v1::AppendReply ignored;
  EXPECT_EQ(ReasonOf(sessions_->Append(
                &busy, MakeAppend("a", paused_at, "x"), &ignored)),
            "SESSION_BUSY");

  clock_.Advance(absl::Seconds(31));
  ASSERT_TRUE(Eventually([&] {
    return Metric("weir_errors_total{reason=\"SLOW_CONSUMER\"}") >= 1;
  }));
  client.Allow(stream, 1 << 16);
  const RawReply reply = client.Wait(stream);

  EXPECT_EQ(reply.status(), 8) << reply.message();
  EXPECT_EQ(reply.reason(), "SLOW_CONSUMER");
  EXPECT_EQ(Position("a"), paused_at);
  // Once, whoever saw it first.
  EXPECT_EQ(Metric("weir_errors_total{reason=\"SLOW_CONSUMER\"}"), 1);
  EXPECT_EQ(Metric("weir_errors_total{reason=\"CANCELLED\"}"), 0);
  // The tokens are kept: the same request gets them from the log.
  RawHttp2 again(port());
  const RawReply resumed =
      again.Call({.path = kGenerate, .body = Generation("g")});
  EXPECT_EQ(resumed.status(), 0) << resumed.message();
  v1::GenerateReply first;
  ASSERT_FALSE(resumed.messages().empty());
  ASSERT_TRUE(first.ParseFromString(resumed.messages().front()));
  EXPECT_TRUE(first.duplicate());
}

TEST_F(LimitsTest, A20ACallIsCancelledWhenItsClientNeverReadsItsStatusEither) {
  RawHttp2 client(port());
  client.SetWindow(0);
  const uint32_t stream =
      client.Send({.path = kGenerate, .body = Generation("g")});
  ASSERT_TRUE(Eventually([&] { return Position("a") > 5; }));
  clock_.Advance(absl::Seconds(31));
  ASSERT_TRUE(Eventually([&] {
    return Metric("weir_errors_total{reason=\"SLOW_CONSUMER\"}") >= 1;
  }));
  clock_.Advance(absl::Seconds(31));

  const RawReply reply = client.Wait(stream);

  // The core drops what was on its way and tells the end in its own words.
  EXPECT_EQ(reply.status(), 1) << reply.message();
  EXPECT_EQ(reply.data, "");
  EXPECT_TRUE(Eventually([&] { return Metric("weir_streams_open") == 0; }));
}

TEST_F(LimitsTest, A20AGenerationInAStreamThatIsNotReadEndsTheStream) {
  RawHttp2 client(port());
  client.SetWindow(0);
  v1::StreamRequest request;
  request.mutable_generate()->set_session_id("a");
  request.mutable_generate()->set_max_tokens(10'000);
  const uint32_t stream =
      client.Send({.path = kStream,
                   .body = Framed(request.SerializeAsString()),
                   .end_stream = false});
  uint64_t before = 0;
  uint64_t paused_at = 5;
  ASSERT_TRUE(Eventually([&] {
    before = std::exchange(paused_at, Position("a"));
    return paused_at > 5 && before == paused_at;
  }));
  clock_.Advance(absl::Seconds(31));
  ASSERT_TRUE(Eventually([&] {
    return Metric("weir_errors_total{reason=\"SLOW_CONSUMER\"}") == 1;
  }));
  client.Allow(stream, 1 << 16);
  const RawReply reply = client.Wait(stream);

  EXPECT_EQ(reply.status(), 8) << reply.message();
  EXPECT_EQ(reply.reason(), "SLOW_CONSUMER");
  EXPECT_TRUE(Eventually([&] { return Metric("weir_streams_open") == 0; }));
  EXPECT_EQ(Metric("weir_errors_total{reason=\"SLOW_CONSUMER\"}"), 1);
  EXPECT_EQ(Metric("weir_errors_total{reason=\"CANCELLED\"}"), 0);
}

TEST_F(LimitsTest, A20AStreamThatIsNotReadIsEndedToo) {
  RawHttp2 client(port());
  client.SetWindow(0);
  std::string body;
  for (int n = 0; n < 100; ++n) {
    v1::StreamRequest request;
    *request.mutable_append() = MakeAppend("a", 5 + n, "x");
    body += Framed(request.SerializeAsString());
  }
  const uint32_t stream =
      client.Send({.path = kStream, .body = body, .end_stream = false});
  // No more than 64 items are taken from a client that does not read.
  uint64_t before = 0;
  uint64_t position = 5;
  ASSERT_TRUE(Eventually([&] {
    before = std::exchange(position, Position("a"));
    return position > 5 && before == position;
  }));
  EXPECT_LE(position, 5u + 65);

  clock_.Advance(absl::Seconds(31));
  ASSERT_TRUE(Eventually([&] {
    return Metric("weir_errors_total{reason=\"SLOW_CONSUMER\"}") == 1;
  }));
  client.Allow(stream, 1 << 16);
  const RawReply reply = client.Wait(stream);

  EXPECT_EQ(reply.status(), 8) << reply.message();
  EXPECT_EQ(reply.reason(), "SLOW_CONSUMER");
}

TEST_F(LimitsTest, BehindARunningGenerationOneItemIsReadAndNoMore) {
  Open("b", "");
  RawHttp2 client(port());
  client.SetWindow(0);
  v1::StreamRequest request;
  request.mutable_generate()->set_session_id("a");
  request.mutable_generate()->set_max_tokens(200);
  std::string body = Framed(request.SerializeAsString());
  for (uint64_t n = 0; n < 30; ++n) {
    *request.mutable_append() = MakeAppend("b", n, "x");
    body += Framed(request.SerializeAsString());
  }
  const uint32_t stream = client.Send({.path = kStream, .body = body});
  uint64_t before = 0;
  uint64_t paused_at = 5;
  ASSERT_TRUE(Eventually([&] {
    before = std::exchange(paused_at, Position("a"));
    return paused_at >= 5 + 64 && before == paused_at;
  }));

  // One, if 64 events waited before the next item could be read.
  EXPECT_LE(Metric(Received("Stream", "bidi_stream")), 2);

  client.Allow(stream, 1 << 20);
  const RawReply reply = client.Wait(stream);
  EXPECT_EQ(reply.status(), 0) << reply.message();
  EXPECT_EQ(reply.messages().size(), 200u + 30);
  EXPECT_EQ(Position("a"), 205u);
  EXPECT_EQ(Position("b"), 30u);
}

TEST_F(LimitsTest, AStreamIsNotReadOnWhileItsAnswersAreLarge) {
  constexpr uint64_t kAppends = 48;
  constexpr uint64_t kTokens = 65'536;
  grpc::ClientContext context;
  const auto stream = sessions_->Stream(&context);
  std::thread writer([&] {
    v1::StreamRequest request;
    for (uint64_t n = 0; n < kAppends; ++n) {
      *request.mutable_append() =
          MakeAppend("a", 5 + n * kTokens, std::string(kTokens, 'x'));
      EXPECT_TRUE(stream->Write(request));
    }
    EXPECT_TRUE(stream->WritesDone());
  });
  double before = -1;
  double received = 0;
  ASSERT_TRUE(Eventually([&] {
    before = std::exchange(received, Metric(Received("Stream", "bidi_stream")));
    return received > 0 && before == received &&
           Position("a") == 5 + kTokens * static_cast<uint64_t>(received);
  }));

  // 16 answers of 256 KiB, and those that the client's window holds.
  EXPECT_LE(received, 32);

  uint64_t answers = 0;
  for (v1::StreamReply reply; stream->Read(&reply); ++answers) {
    EXPECT_EQ(reply.append().scores_size(), static_cast<int>(kTokens));
  }
  writer.join();
  EXPECT_TRUE(stream->Finish().ok());
  EXPECT_EQ(answers, kAppends);
}

TEST_F(LimitsTest, AMalformedItemEndsTheStreamAfterTheItemsBeforeIt) {
  v1::StreamRequest good;
  good.set_item_id(1);
  *good.mutable_append() = MakeAppend("a", 5, "x");
  RawHttp2 client(port());

  const RawReply reply =
      client.Call({.path = kStream,
                   .body = Framed(good.SerializeAsString()) + Framed("\x0f") +
                           Framed(good.SerializeAsString())});

  EXPECT_EQ(reply.status(), 3);
  EXPECT_EQ(reply.reason(), "MALFORMED_PROTO");
  ASSERT_EQ(reply.messages().size(), 1u);
  v1::StreamReply answer;
  ASSERT_TRUE(answer.ParseFromString(reply.messages()[0]));
  EXPECT_EQ(answer.append().position(), 6u);
}

TEST_F(LimitsTest, ACancelledGenerationEndsAndLetsGoOfItsSession) {
  v1::GenerateRequest request;
  request.set_session_id("a");
  request.set_max_tokens(65'536);
  grpc::ClientContext context;
  const auto reader = sessions_->Generate(&context, request);
  v1::GenerateReply reply;
  ASSERT_TRUE(reader->Read(&reply));
  context.TryCancel();
  while (reader->Read(&reply)) {
  }
  EXPECT_EQ(reader->Finish().error_code(), grpc::StatusCode::CANCELLED);

  EXPECT_TRUE(Eventually([&] {
    grpc::ClientContext appending;
    v1::AppendReply appended;
    return sessions_
        ->Append(&appending, MakeAppend("a", Position("a"), "x"), &appended)
        .ok();
  }));
}

TEST_F(LimitsTest, C7AppendsThatOvertakeOneAnotherAreSentAgainInTheEnd) {
  grpc::ClientContext first_context, second_context;
  const auto first = sessions_->Stream(&first_context);
  const auto second = sessions_->Stream(&second_context);
  const auto append = [](auto& stream, uint64_t position, const char* bytes) {
    v1::StreamRequest request;
    *request.mutable_append() = MakeAppend("a", position, bytes);
    v1::StreamReply reply;
    EXPECT_TRUE(stream->Write(request) && stream->Read(&reply));
    return reply;
  };

  const v1::StreamReply early = append(second, 8, "def");
  EXPECT_EQ(ReasonIn(early.error().SerializeAsString()), "POSITION_GAP");
  EXPECT_EQ(append(first, 5, "abc").append().position(), 8u);
  EXPECT_EQ(append(second, 8, "def").append().position(), 11u);

  EXPECT_EQ(engine_->hash(engine_->held().at(0)),
            FakeEngine::Hash(std::vector<uint32_t>{
                'h', 'e', 'l', 'l', 'o', 'a', 'b', 'c', 'd', 'e', 'f'}));
}

TEST_F(LimitsTest, C20ForksBeyondThePoolAreRefusedAndTheirSourceLives) {
  grpc::Status status;
  int forks = 0;
  for (; forks < 100; ++forks) {
    v1::ForkRequest request;
    request.set_session_id("a");
    grpc::ClientContext context;
    v1::ForkReply reply;
    status = sessions_->Fork(&context, request, &reply);
    if (!status.ok()) break;
  }

  EXPECT_EQ(forks, 7);  // the pool holds 8
  EXPECT_EQ(status.error_code(), grpc::StatusCode::RESOURCE_EXHAUSTED);
  EXPECT_EQ(ReasonOf(status), "STATE_POOL_EXHAUSTED");
  EXPECT_EQ(Position("a"), 5u);
}

TEST_F(LimitsTest, D8ANonFiniteStateStopsItsOwnGenerationAlone) {
  Open("b", "other");
  engine_->PoisonSlot(engine_->held().at(0));
  v1::GenerateRequest request;
  request.set_session_id("a");
  request.set_max_tokens(5);
  grpc::ClientContext context;
  const auto reader = sessions_->Generate(&context, request);
  v1::GenerateReply reply;
  while (reader->Read(&reply)) {
  }

  const grpc::Status status = reader->Finish();

  EXPECT_EQ(status.error_code(), grpc::StatusCode::INTERNAL);
  EXPECT_EQ(ReasonOf(status), "NON_FINITE_STATE");
  grpc::ClientContext appending;
  v1::AppendReply appended;
  EXPECT_TRUE(
      sessions_->Append(&appending, MakeAppend("b", 5, "x"), &appended).ok());
}

TEST_F(LimitsTest, ADeviceFaultIsAnsweredAndSeen) {
  engine_->FailAt(FakeEngine::Point::kWait, 1);
  grpc::ClientContext context;
  v1::AppendReply reply;

  const grpc::Status status =
      sessions_->Append(&context, MakeAppend("a", 5, "x"), &reply);

  EXPECT_EQ(status.error_code(), grpc::StatusCode::INTERNAL);
  EXPECT_EQ(ReasonOf(status), "DEVICE_FAULT");
  EXPECT_TRUE(Eventually([&] { return !service_->health().ok(); }));
}

// In a process of its own, whose descriptors it uses up: client and server
// share them, so that accept() fails while connections wait.
class DescriptorsTest : public ServerFixture {
 protected:
  DescriptorsTest() : ServerFixture({.connections_max = 10'000}) {}
};

double CpuSeconds() {
  rusage usage{};
  getrusage(RUSAGE_SELF, &usage);
  return static_cast<double>(usage.ru_utime.tv_sec + usage.ru_stime.tv_sec) +
         1e-6 * static_cast<double>(usage.ru_utime.tv_usec +
                                    usage.ru_stime.tv_usec);
}

void UseUpDescriptors(uint16_t port, const std::function<bool()>& works) {
  if (!works()) _exit(2);
  const int probe = dup(0);
  close(probe);
  rlimit limit{static_cast<rlim_t>(probe + 60),
               static_cast<rlim_t>(probe + 60)};
  setrlimit(RLIMIT_NOFILE, &limit);
  std::vector<int> sockets;
  for (int socket; (socket = Dial(port)) >= 0;) sockets.push_back(socket);
  // The server has taken some and can take no more; it must not spin.
  const double before = CpuSeconds();
  poll(nullptr, 0, 500);
  const double used = CpuSeconds() - before;
  if (used > 0.25) _exit(3);
  for (int socket : sockets) close(socket);
  for (int n = 0; n < 200; ++n) {
    if (works()) _exit(0);
    poll(nullptr, 0, 50);
  }
  _exit(4);
}

TEST_F(DescriptorsTest, TheServerAcceptsAgainAfterDescriptorsHaveRunOut) {
  GTEST_FLAG_SET(death_test_style, "threadsafe");
  const auto works = [this] {
    const auto models = v1::Models::NewStub(Connect());
    grpc::ClientContext context;
    context.set_deadline(std::chrono::system_clock::now() +
                         std::chrono::seconds(2));
    v1::ListModelsReply reply;
    return models->ListModels(&context, v1::ListModelsRequest(), &reply).ok();
  };

  EXPECT_EXIT(
      UseUpDescriptors(port(), works), ::testing::ExitedWithCode(0), "");
}

class FewConnectionsTest : public ServerFixture {
 protected:
  FewConnectionsTest() : ServerFixture({.connections_max = 3}) {}
};

TEST_F(FewConnectionsTest, AConnectionTooManyIsClosedAndCounted) {
  std::vector<std::unique_ptr<RawHttp2>> clients;
  for (int n = 0; n < 3; ++n) {
    clients.push_back(std::make_unique<RawHttp2>(port()));
  }
  const int socket = Dial(port());
  EXPECT_TRUE(ReadToEnd(socket));
  close(socket);
  EXPECT_TRUE(Eventually(
      [&] { return Metric("weir_connections_refused_total") == 1; }));

  clients.clear();
  EXPECT_TRUE(Eventually([&] {
    const int again = Dial(port());
    pollfd wait{again, POLLIN, 0};
    // A taken connection gets the server's settings first.
    char byte;
    const bool taken =
        poll(&wait, 1, 1000) == 1 && recv(again, &byte, 1, 0) == 1;
    close(again);
    return taken;
  }));
}

}  // namespace
}  // namespace weir::integration
