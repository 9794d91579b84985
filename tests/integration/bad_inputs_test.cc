// SPDX-License-Identifier: Apache-2.0
//
// Walks the table of bad inputs over real sockets. After each row every session
// is what it was, and an append still gets the right scores.
#include "tests/integration/bad_inputs.h"

#include <map>
#include <string>
#include <thread>
#include <vector>

#include "absl/strings/str_cat.h"
#include "gmock/gmock.h"
#include "google/rpc/error_details.pb.h"
#include "google/rpc/status.pb.h"
#include "gtest/gtest.h"
#include "tests/integration/server_fixture.h"

namespace weir::integration {
namespace {

using support::FakeEngine;

service::Limits SmallLimits() {
  service::Limits limits;
  limits.session_tokens_max = 4096;
  return limits;
}

class BadInputsTest : public ServerFixture {
 protected:
  BadInputsTest() : ServerFixture({.limits = SmallLimits()}) {
    OpenOld();
    Open("a", "hello");
    Open("empty", "");
    Open("lost", "one");
    engine_->PoisonToken('X');
    grpc::ClientContext context;
    v1::AppendReply reply;
    EXPECT_EQ(ReasonOf(sessions_->Append(
                  &context, MakeAppend("lost", 3, "X"), &reply)),
              "NON_FINITE_STATE");
    Open("reference", "r");
    StartBusy();
  }

  void OpenOld() {
    v1::OpenSessionRequest open;
    open.set_session_id("old");
    open.set_model(kModelName);
    open.mutable_idle_timeout()->set_seconds(1);
    grpc::ClientContext context;
    v1::OpenSessionReply opened;
    EXPECT_TRUE(sessions_->OpenSession(&context, open, &opened).ok());
    clock_.Advance(absl::Seconds(1));
    service_->Wake();
    EXPECT_TRUE(Eventually([this] {
      return Metric("weir_sessions_closed_total{reason=\"idle\"}") == 1;
    }));
  }

  // A generation that nobody reads: it stands still while the clock does.
  void StartBusy() {
    Open("busy", "b");
    v1::GenerateRequest request;
    request.set_session_id("busy");
    request.set_max_tokens(4000);
    reader_ = std::make_unique<RawHttp2>(port());
    reader_->SetWindow(0);
    reader_->Send({.path = "/weir.v1.Sessions/Generate",
                   .body = Framed(request.SerializeAsString())});
    // 64 events that wait, and perhaps one that is on its way.
    std::string before;
    std::string now;
    EXPECT_TRUE(Eventually([&] {
      before = std::exchange(now, Sessions());
      return Metric("weir_generation_tokens_total") >= 64 && before == now;
    }));
  }

  // One more token, whose score says that nothing before it was touched.
  void AppendToReference() {
    grpc::ClientContext context;
    v1::AppendReply reply;
    const grpc::Status status = sessions_->Append(
        &context, MakeAppend("reference", reference_.size(), "s"), &reply);
    ASSERT_TRUE(status.ok()) << status.error_message();
    reference_.push_back('s');
    ASSERT_EQ(reply.position(), reference_.size());
    ASSERT_EQ(reply.scores_size(), 1);
    EXPECT_EQ(reply.scores(0), FakeEngine::Scores(reference_).back());
  }

  std::vector<uint32_t> reference_ = {'r'};
  std::unique_ptr<RawHttp2> reader_;
};

TEST_F(BadInputsTest, EachRowHasItsCodeAndReasonAndChangesNothing) {
  std::map<std::string, double> refused;
  std::map<std::string, double> before;
  for (const service::ReasonInfo& row : service::Reasons()) {
    const std::string name(row.name);
    before[name] =
        Metric(absl::StrCat("weir_errors_total{reason=\"", name, "\"}"));
  }
  for (const BadInput& row : BadInputs()) {
    SCOPED_TRACE(absl::StrCat(row.id,
                              " ",
                              row.method.substr(0, 60),
                              ", ",
                              row.body.size(),
                              " bytes"));
    const std::string sessions = Sessions();
    RawHttp2 client(port());

    const RawReply reply = client.Call(
        {.path = row.method, .body = row.body, .headers = row.headers});

    EXPECT_EQ(reply.status(), row.code) << reply.message();
    EXPECT_THAT(absl::StrCat("|", row.reason, "|"),
                ::testing::HasSubstr(absl::StrCat("|", reply.reason(), "|")))
        << reply.message();
    EXPECT_FALSE(reply.closed);
    EXPECT_EQ(Sessions(), sessions);
    AppendToReference();
    refused[reply.reason()] += 1;
  }
  for (const service::ReasonInfo& row : service::Reasons()) {
    const std::string name(row.name);
    const std::string key =
        absl::StrCat("weir_errors_total{reason=\"", name, "\"}");
    // gRPC's core may answer A12 by itself when the service has answered too,
    // late or cancelled, and has counted that.
    const bool overtaken = row.reason == service::Reason::kDeadlineInQueue ||
                           row.reason == service::Reason::kCancelled;
    EXPECT_TRUE(Eventually([&] {
      const double more = Metric(key) - before[name] - refused[name];
      return more == 0 || (overtaken && more == 1);
    })) << name
        << ": " << Metric(key) - before[name] << " counted, " << refused[name]
        << " sent";
  }
  EXPECT_EQ(Metric("weir_unknown_fields_total"), 3);
}

TEST_F(BadInputsTest, AConnectionGoesOnAfterEachOfThem) {
  RawHttp2 client(port());
  for (const BadInput& row : BadInputs()) {
    // After metadata above the limit gRPC 1.51 closes the connection.
    if (row.id == "A7") continue;
    SCOPED_TRACE(absl::StrCat(row.id, " ", row.method.substr(0, 60)));
    const RawReply reply = client.Call(
        {.path = row.method, .body = row.body, .headers = row.headers});
    ASSERT_EQ(reply.status(), row.code) << reply.message();
  }
}

TEST_F(BadInputsTest, AllOfThemAtOnceAndManyTimesLeaveTheSessionsAlone) {
  const std::string sessions = Sessions();
  std::vector<std::thread> threads;
  for (int thread = 0; thread < 4; ++thread) {
    threads.emplace_back([this] {
      for (const BadInput& row : BadInputs()) {
        if (row.body.size() > 100'000) continue;
        RawHttp2 client(port());
        const RawReply reply = client.Call(
            {.path = row.method, .body = row.body, .headers = row.headers});
        // It may have met an append or a generation of another thread.
        if (reply.reason() == "SESSION_BUSY") continue;
        EXPECT_EQ(reply.status(), row.code) << row.id << " " << row.method;
      }
    });
  }
  for (std::thread& thread : threads) thread.join();

  EXPECT_EQ(Sessions(), sessions);
  AppendToReference();
}

TEST_F(BadInputsTest, ARefusalNamesItsValues) {
  RawHttp2 client(port());
  const RawReply gap = client.Call(
      {.path = "/weir.v1.Sessions/Append",
       .body = Framed(MakeAppend("a", 7, "x").SerializeAsString())});

  google::rpc::Status details;
  ASSERT_TRUE(
      details.ParseFromString(gap.headers.at("grpc-status-details-bin")));
  google::rpc::ErrorInfo info;
  ASSERT_TRUE(details.details(0).UnpackTo(&info));
  EXPECT_EQ(info.domain(), "weir.dev");
  EXPECT_FALSE(info.metadata().empty());
  bool position = false;
  for (const auto& [key, value] : info.metadata()) {
    position = position || value == "5";
  }
  EXPECT_TRUE(position) << info.ShortDebugString();
}

TEST_F(BadInputsTest, TooManyTokensToGenerateAreCutAndSaid) {
  v1::GenerateRequest request;
  request.set_session_id("a");
  request.set_max_tokens(0);
  grpc::ClientContext none;
  const auto nothing = sessions_->Generate(&none, request);
  v1::GenerateReply reply;
  ASSERT_TRUE(nothing->Read(&reply));
  EXPECT_EQ(reply.tokens_size(), 0);
  EXPECT_EQ(reply.finish_reason(), v1::FINISH_REASON_LENGTH);
  EXPECT_TRUE(nothing->Finish().ok());

  request.set_max_tokens(0xffffffff);
  request.add_stop_tokens(engine_
                              ->Sample({{'h', 'e', 'l', 'l', 'o'}},
                                       [] {
                                         engine::Sampling greedy;
                                         greedy.temperature = 0;
                                         greedy.position = 5;
                                         return greedy;
                                       }())
                              .token);
  request.set_temperature(1e-45f);  // as 0
  grpc::ClientContext all;
  const auto cut = sessions_->Generate(&all, request);
  v1::GenerateReply last;
  while (cut->Read(&reply)) last = reply;
  EXPECT_TRUE(cut->Finish().ok());
  EXPECT_EQ(last.finish_reason(), v1::FINISH_REASON_STOP);
  EXPECT_EQ(last.max_tokens(), 4091u);  // up to the session's limit
}

}  // namespace
}  // namespace weir::integration
