// SPDX-License-Identifier: Apache-2.0
//
// What operators see: health, reflection, the pages, metrics and the drain.
#include <string>
#include <thread>

#include "absl/strings/str_cat.h"
#include "gmock/gmock.h"
#include "google/rpc/error_details.pb.h"
#include "google/rpc/status.pb.h"
#include "gtest/gtest.h"
#include "tests/integration/raw_http2.h"
#include "tests/integration/server_fixture.h"

namespace weir::integration {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;
using ::testing::StartsWith;

constexpr int kServing = 1;
constexpr int kNotServing = 2;

class OperationTest : public ServerFixture {
 protected:
  // grpc.health.v1.Health/Check; the protobuf is written by hand, because
  // gRPC's own library registers these messages already.
  int Health(const std::string& service) {
    RawHttp2 client(port());
    std::string request;
    if (!service.empty()) {
      request = absl::StrCat(
          "\x0a", std::string(1, static_cast<char>(service.size())), service);
    }
    const RawReply reply = client.Call(
        {.path = "/grpc.health.v1.Health/Check", .body = Framed(request)});
    EXPECT_EQ(reply.status(), 0) << reply.message();
    const std::vector<std::string> messages = reply.messages();
    if (messages.empty() || messages[0].size() != 2) return -1;
    return messages[0][1];
  }
};

TEST_F(OperationTest, HealthAndThePagesSayReadyAndTurn) {
  for (const char* service : {"", "readiness"}) {
    EXPECT_EQ(Health(service), kServing) << service;
  }
  EXPECT_THAT(Get("/readyz"), StartsWith("HTTP/1.1 200"));
  EXPECT_THAT(Get("/healthz"), StartsWith("HTTP/1.1 200"));

  server_->SetReady(false);
  ready_ = false;

  for (const char* service : {"", "readiness"}) {
    EXPECT_EQ(Health(service), kNotServing) << service;
  }
  EXPECT_THAT(Get("/readyz"), StartsWith("HTTP/1.1 503"));
  EXPECT_THAT(Get("/healthz"), StartsWith("HTTP/1.1 200"));
  Open("a", "still served");
}

TEST_F(OperationTest, ADrainIsSaidFromItsBeginning) {
  const auto admin = v1::Admin::NewStub(grpc::CreateChannel(
      absl::StrCat("127.0.0.1:", server_->admin_address()->port),
      grpc::InsecureChannelCredentials()));
  const auto draining = [&] {
    grpc::ClientContext context;
    v1::GetServerInfoReply info;
    const grpc::Status status =
        admin->GetServerInfo(&context, v1::GetServerInfoRequest(), &info);
    EXPECT_TRUE(status.ok()) << status.error_message();
    return info.draining();
  };
  EXPECT_FALSE(draining());
  server_->SetReady(false);
  EXPECT_FALSE(draining());

  server_->BeginDrain();

  EXPECT_TRUE(draining());
  EXPECT_EQ(Health("readiness"), kNotServing);
}

TEST_F(OperationTest, TheMetricsPageIsPlainText) {
  EXPECT_THAT(Get("/metrics"),
              AllOf(StartsWith("HTTP/1.1 200"),
                    HasSubstr("version=0.0.4"),
                    HasSubstr("weir_build_info{")));
  EXPECT_THAT(Get("/etc/passwd"), HasSubstr(" 404 Not Found"));
}

TEST_F(OperationTest, ReflectionListsTheServices) {
  RawHttp2 client(port());

  // ServerReflectionRequest{list_services: ""}.
  const RawReply reply = client.Call(
      {.path = "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo",
       .body = Framed(std::string("\x3a\0", 2))});

  EXPECT_EQ(reply.status(), 0) << reply.message();
  for (const char* service :
       {"weir.v1.Sessions", "weir.v1.Models", "grpc.health.v1.Health"}) {
    EXPECT_THAT(reply.data, HasSubstr(service));
  }
  EXPECT_EQ(reply.data.find("weir.v1.Admin"), std::string::npos);
}

TEST_F(OperationTest, CountersMoveWithTheCalls) {
  Open("a", "hello");
  v1::GenerateRequest request;
  request.set_session_id("a");
  request.set_max_tokens(7);
  grpc::ClientContext context;
  const auto reader = sessions_->Generate(&context, request);
  v1::GenerateReply reply;
  int messages = 0;
  while (reader->Read(&reply)) ++messages;
  ASSERT_TRUE(reader->Finish().ok());
  grpc::ClientContext refused;
  v1::RollbackReply nothing;
  EXPECT_FALSE(
      sessions_->Rollback(&refused, v1::RollbackRequest(), &nothing).ok());
  const std::string append =
      "grpc_method=\"Append\",grpc_service=\"weir.v1.Sessions\",grpc_type="
      "\"unary\"}";
  const std::string generate =
      "grpc_method=\"Generate\",grpc_service=\"weir.v1.Sessions\",grpc_type="
      "\"server_stream\"}";

  const std::pair<std::string, double> expected[] = {
      {"weir_sessions_created_total", 1},
      {"weir_sessions", 1},
      {"weir_prompt_tokens_total", 5},
      {"weir_reused_tokens_total", 5},
      // OpenSession, Append, Generate.
      {"weir_request_duration_seconds_count", 3},
      {"weir_generation_tokens_total", 7},
      {"weir_state_slots{state=\"used\"}", 1},
      {"weir_streams_open", 0},
      {"weir_append_ack_seconds_count", 1},
      {"weir_time_to_first_token_seconds_count", 1},
      {"weir_inter_token_latency_seconds_count", 6},
      {"grpc_server_started_total{" + append, 1},
      {"grpc_server_handled_total{grpc_code=\"OK\"," + append, 1},
      {"grpc_server_msg_received_total{" + append, 1},
      {"grpc_server_msg_sent_total{" + append, 1},
      {"grpc_server_msg_sent_total{" + generate, messages},
      {"grpc_server_handled_total{grpc_code=\"OK\"," + generate, 1}};
  for (const auto& pair : expected) {
    const std::string& key = pair.first;
    EXPECT_TRUE(Eventually([&] { return Metric(key) == pair.second; }))
        << key << " is " << Metric(key) << ", not " << pair.second;
  }
}

TEST_F(OperationTest, NoLabelHoldsWhatAClientChose) {
  Open("a-telling-name", "x");
  RawHttp2 client(port());
  client.Call({.path = "/a.telling.Service/Name", .body = Framed("")});

  EXPECT_EQ(metrics_.Page().find("telling"), std::string::npos);
}

TEST_F(OperationTest, ADrainRefusesFinishesAndEndsIdleStreams) {
  Open("a", "hello");
  grpc::ClientContext streaming;
  const auto stream = sessions_->Stream(&streaming);
  v1::StreamRequest item;
  *item.mutable_append() = MakeAppend("a", 5, "x");
  ASSERT_TRUE(stream->Write(item));
  v1::StreamReply answer;
  ASSERT_TRUE(stream->Read(&answer));

  EXPECT_TRUE(service_->Drain(absl::Seconds(5)));

  grpc::ClientContext context;
  v1::AppendReply reply;
  const grpc::Status refused =
      sessions_->Append(&context, MakeAppend("a", 6, "y"), &reply);
  EXPECT_EQ(refused.error_code(), grpc::StatusCode::UNAVAILABLE);
  EXPECT_EQ(ReasonOf(refused), "SERVER_DRAINING");
  google::rpc::Status details;
  google::rpc::RetryInfo retry;
  ASSERT_TRUE(details.ParseFromString(refused.error_details()));
  ASSERT_EQ(details.details_size(), 2);
  EXPECT_TRUE(details.details(1).UnpackTo(&retry));
  // What reads no session is still answered.
  grpc::ClientContext listing;
  v1::ListModelsReply models;
  EXPECT_TRUE(
      models_->ListModels(&listing, v1::ListModelsRequest(), &models).ok());

  std::thread shutdown([this] { server_->Shutdown(absl::Seconds(5)); });
  EXPECT_FALSE(stream->Read(&answer));
  const grpc::Status ended = stream->Finish();
  shutdown.join();
  EXPECT_EQ(ended.error_code(), grpc::StatusCode::UNAVAILABLE);
  EXPECT_EQ(ReasonOf(ended), "SERVER_DRAINING");
  // The refused append and the stream.
  EXPECT_EQ(Metric("weir_errors_total{reason=\"SERVER_DRAINING\"}"), 2);
}

TEST_F(OperationTest, ADrainEndsAGenerationAfterTheTokenInHand) {
  Open("a", "hello");
  v1::GenerateRequest request;
  request.set_session_id("a");
  request.set_max_tokens(65'536);
  grpc::ClientContext context;
  const auto reader = sessions_->Generate(&context, request);
  v1::GenerateReply reply;
  ASSERT_TRUE(reader->Read(&reply));

  std::thread drain([this] { EXPECT_TRUE(service_->Drain(absl::Seconds(5))); });
  uint64_t position = reply.position();
  while (reader->Read(&reply)) position = reply.position();
  const grpc::Status status = reader->Finish();
  drain.join();

  EXPECT_EQ(ReasonOf(status), "SERVER_DRAINING");
  EXPECT_EQ(engine_->consumed(engine_->held().at(0)), position);
}

}  // namespace
}  // namespace weir::integration
