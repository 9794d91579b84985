// SPDX-License-Identifier: Apache-2.0
//
// The methods end to end, with an ordinary client.
#include <map>
#include <set>
#include <string>
#include <thread>
#include <vector>

#include "gmock/gmock.h"
#include "google/rpc/status.pb.h"
#include "gtest/gtest.h"
#include "tests/integration/server_fixture.h"

namespace weir::integration {
namespace {

using support::FakeEngine;
using ::testing::HasSubstr;

std::vector<uint32_t> Tokens(const std::string& bytes) {
  std::vector<uint32_t> tokens;
  for (char c : bytes) tokens.push_back(static_cast<uint8_t>(c));
  return tokens;
}

class CallsTest : public ServerFixture {};

TEST_F(CallsTest, AnAppendIsScoredAndMovesThePosition) {
  Open("a", "hello");
  grpc::ClientContext context;
  v1::AppendReply reply;

  const grpc::Status status =
      sessions_->Append(&context, MakeAppend("a", 5, " world"), &reply);

  ASSERT_TRUE(status.ok()) << status.error_message();
  EXPECT_EQ(reply.position(), 11u);
  EXPECT_FALSE(reply.duplicate());
  const std::vector<float> all = FakeEngine::Scores(Tokens("hello world"));
  EXPECT_EQ(std::vector<float>(reply.scores().begin(), reply.scores().end()),
            std::vector<float>(all.begin() + 5, all.end()));
}

TEST_F(CallsTest, TextIsAppendedAsItsBytes) {
  Open("a", "x");
  v1::AppendRequest request = MakeAppend("a", 1, "");
  request.set_text("\u20ac5");
  grpc::ClientContext context;
  v1::AppendReply reply;

  ASSERT_TRUE(sessions_->Append(&context, request, &reply).ok());

  EXPECT_EQ(reply.position(), 5u);
  EXPECT_EQ(engine_->hash(engine_->held().at(0)),
            FakeEngine::Hash(Tokens("x\u20ac5")));
}

TEST_F(CallsTest, AServerIssuesAnIdAndGivesBackWhatWasAskedFor) {
  v1::OpenSessionRequest request;
  request.set_model(kModelName);
  request.set_seed(17);
  request.mutable_idle_timeout()->set_seconds(90);
  request.mutable_idle_timeout()->set_nanos(500'000'000);
  grpc::ClientContext context;
  v1::OpenSessionReply reply;
  ASSERT_TRUE(sessions_->OpenSession(&context, request, &reply).ok());
  EXPECT_EQ(reply.session_id().size(), 32u);
  EXPECT_TRUE(reply.created());
  EXPECT_EQ(reply.seed(), 17u);
  EXPECT_EQ(reply.model(), kModelName);
  EXPECT_EQ(reply.state_bytes(), 16u);

  grpc::ClientContext getting;
  v1::GetSessionRequest get;
  get.set_session_id(reply.session_id());
  v1::Session session;
  ASSERT_TRUE(sessions_->GetSession(&getting, get, &session).ok());

  EXPECT_EQ(session.idle_timeout().seconds(), 90);
  EXPECT_EQ(session.idle_timeout().nanos(), 500'000'000);
  EXPECT_EQ(session.position(), 0u);
}

TEST_F(CallsTest, ListsArePaged) {
  for (const char* id : {"c", "a", "b"}) Open(id, "x");
  std::vector<std::string> ids;
  std::string token;
  int pages = 0;
  do {
    v1::ListSessionsRequest request;
    request.set_page_size(2);
    request.set_page_token(token);
    grpc::ClientContext context;
    v1::ListSessionsReply reply;
    ASSERT_TRUE(sessions_->ListSessions(&context, request, &reply).ok());
    for (const v1::Session& session : reply.sessions()) {
      ids.push_back(session.session_id());
    }
    token = reply.next_page_token();
    ++pages;
  } while (!token.empty() && pages < 9);

  EXPECT_EQ(ids, (std::vector<std::string>{"a", "b", "c"}));
  EXPECT_EQ(pages, 2);
}

TEST_F(CallsTest, AForkIsACopyAndCloseForgets) {
  Open("a", "hello");
  v1::ForkRequest fork;
  fork.set_session_id("a");
  fork.set_new_session_id("b");
  grpc::ClientContext forking;
  v1::ForkReply forked;
  ASSERT_TRUE(sessions_->Fork(&forking, fork, &forked).ok());
  EXPECT_EQ(forked.session_id(), "b");
  EXPECT_EQ(forked.position(), 5u);

  v1::CloseSessionRequest close;
  close.set_session_id("a");
  grpc::ClientContext closing;
  v1::CloseSessionReply closed;
  ASSERT_TRUE(sessions_->CloseSession(&closing, close, &closed).ok());
  EXPECT_TRUE(closed.closed());
  EXPECT_EQ(closed.position(), 5u);

  grpc::ClientContext again;
  ASSERT_TRUE(sessions_->CloseSession(&again, close, &closed).ok());
  EXPECT_FALSE(closed.closed());
}

TEST_F(CallsTest, ModelsAndServerInfoSayWhatIsServed) {
  grpc::ClientContext listing;
  v1::ListModelsReply models;
  ASSERT_TRUE(
      models_->ListModels(&listing, v1::ListModelsRequest(), &models).ok());
  ASSERT_EQ(models.models_size(), 1);
  EXPECT_EQ(models.models(0).name(), kModelName);
  EXPECT_EQ(models.models(0).vocabulary(), 256u);
  EXPECT_TRUE(models.models(0).takes_text());
  EXPECT_EQ(models.models(0).tokenizer(), "bytes");

  const auto admin = v1::Admin::NewStub(grpc::CreateChannel(
      "127.0.0.1:" + std::to_string(server_->admin_address()->port),
      grpc::InsecureChannelCredentials()));
  clock_.Advance(absl::Seconds(3));
  grpc::ClientContext asking;
  v1::GetServerInfoReply info;
  ASSERT_TRUE(
      admin->GetServerInfo(&asking, v1::GetServerInfoRequest(), &info).ok());
  EXPECT_EQ(info.model(), kModelName);
  EXPECT_EQ(info.uptime().seconds(), 3);
  EXPECT_EQ(info.slots(), 8u);
  EXPECT_FALSE(info.draining());
  ASSERT_EQ(info.durability_size(), 1);
  EXPECT_EQ(info.durability(0), v1::DURABILITY_APPLIED);
}

TEST_F(CallsTest, AdminIsNotServedWhereClientsConnect) {
  const auto admin = v1::Admin::NewStub(channel_);
  grpc::ClientContext context;
  v1::GetServerInfoReply info;

  const grpc::Status status =
      admin->GetServerInfo(&context, v1::GetServerInfoRequest(), &info);

  EXPECT_EQ(status.error_code(), grpc::StatusCode::UNIMPLEMENTED);
  EXPECT_EQ(ReasonOf(status), "UNKNOWN_METHOD");
}

TEST_F(CallsTest, AGenerationIsSentTokenByTokenAndConsumed) {
  Open("a", "hello");
  v1::GenerateRequest request;
  request.set_session_id("a");
  request.set_max_tokens(20);
  request.set_temperature(0);
  request.set_want_log_probs(true);
  grpc::ClientContext context;
  const auto reader = sessions_->Generate(&context, request);
  std::vector<uint32_t> tokens = Tokens("hello");
  int log_probs = 0;
  v1::GenerateReply reply;
  v1::GenerateReply last;

  while (reader->Read(&reply)) {
    EXPECT_EQ(last.finish_reason(), v1::FINISH_REASON_UNSPECIFIED);
    for (uint32_t token : reply.tokens()) {
      engine::Sampling greedy;
      greedy.temperature = 0;
      greedy.position = tokens.size();
      EXPECT_EQ(token, engine_->Sample(tokens, greedy).token);
      tokens.push_back(token);
    }
    log_probs += reply.log_probs_size();
    last = reply;
  }

  const grpc::Status status = reader->Finish();
  EXPECT_TRUE(status.ok()) << status.error_message();
  EXPECT_EQ(tokens.size(), 25u);
  EXPECT_EQ(log_probs, 20);
  EXPECT_EQ(last.finish_reason(), v1::FINISH_REASON_LENGTH);
  EXPECT_EQ(last.position(), 25u);
  EXPECT_EQ(last.max_tokens(), 20u);
  EXPECT_EQ(engine_->hash(engine_->held().at(0)), FakeEngine::Hash(tokens));
}

TEST_F(CallsTest, AGenerationsTextIsWhatItsTokensAreAndStopsAtAStopString) {
  Open("a", "hello");
  const auto generate = [&](const std::string& id, const std::string& stop) {
    v1::GenerateRequest request;
    request.set_session_id(id);
    request.set_max_tokens(64);
    request.set_temperature(0);
    if (!stop.empty()) request.add_stop_strings(stop);
    grpc::ClientContext context;
    const auto reader = sessions_->Generate(&context, request);
    v1::GenerateReply all;
    for (v1::GenerateReply reply; reader->Read(&reply);) {
      const std::string text = all.text() + reply.text();
      all.MergeFrom(reply);
      all.set_text(text);
    }
    const grpc::Status status = reader->Finish();
    EXPECT_TRUE(status.ok()) << status.error_message();
    return all;
  };
  v1::ForkRequest fork;
  fork.set_session_id("a");
  fork.set_new_session_id("b");
  grpc::ClientContext forking;
  v1::ForkReply forked;
  ASSERT_TRUE(sessions_->Fork(&forking, fork, &forked).ok());
  const v1::GenerateReply whole = generate("a", "");
  ASSERT_EQ(whole.tokens_size(), 64);
  ASSERT_GT(whole.text().size(), 8u);
  // Two ASCII characters next to each other, somewhere in the middle.
  size_t at = 4;
  while (at + 1 < whole.text().size() &&
         ((whole.text()[at] | whole.text()[at + 1]) & 0x80) != 0) {
    ++at;
  }
  const std::string stop = whole.text().substr(at, 2);

  const v1::GenerateReply stopped = generate("b", stop);

  EXPECT_EQ(stopped.finish_reason(), v1::FINISH_REASON_STOP);
  EXPECT_EQ(stopped.stop_string(), stop);
  EXPECT_EQ(stopped.text(), whole.text().substr(0, whole.text().find(stop)));
  EXPECT_LT(stopped.tokens_size(), 64);
}

TEST_F(CallsTest, AStreamAnswersEachItemAndRunsThemInOrder) {
  Open("a", "x");
  grpc::ClientContext context;
  const auto stream = sessions_->Stream(&context);
  constexpr uint64_t kAppends = 300;
  std::thread writer([&] {
    for (uint64_t item = 0; item < kAppends; ++item) {
      v1::StreamRequest request;
      request.set_item_id(item);
      *request.mutable_append() =
          MakeAppend("a", 1 + 2 * item, item % 2 == 0 ? "ab" : "cd");
      EXPECT_TRUE(stream->Write(request));
    }
    EXPECT_TRUE(stream->WritesDone());
  });
  uint64_t item = 0;

  for (v1::StreamReply reply; stream->Read(&reply); ++item) {
    EXPECT_EQ(reply.item_id(), item);
    ASSERT_TRUE(reply.has_append()) << reply.ShortDebugString();
    EXPECT_EQ(reply.append().position(), 3 + 2 * item);
    EXPECT_EQ(reply.append().scores_size(), 2);
  }

  writer.join();
  EXPECT_TRUE(stream->Finish().ok());
  EXPECT_EQ(item, kAppends);
}

TEST_F(CallsTest, AGenerationInAStreamWaitsForWhatIsBeforeAndHoldsWhatIsAfter) {
  Open("a", "x");
  grpc::ClientContext context;
  const auto stream = sessions_->Stream(&context);
  v1::StreamRequest request;
  for (uint64_t item = 0; item < 3; ++item) {
    request.set_item_id(item);
    *request.mutable_append() = MakeAppend("a", 1 + 4 * item, "four");
    stream->Write(request);
  }
  request.set_item_id(3);
  request.mutable_generate()->set_session_id("a");
  request.mutable_generate()->set_max_tokens(5);
  stream->Write(request);
  request.set_item_id(4);
  *request.mutable_append() = MakeAppend("a", 18, "end");
  stream->Write(request);
  stream->WritesDone();
  std::vector<uint64_t> order;
  uint64_t generated = 0;

  for (v1::StreamReply reply; stream->Read(&reply);) {
    EXPECT_FALSE(reply.has_error()) << reply.ShortDebugString();
    if (order.empty() || order.back() != reply.item_id()) {
      order.push_back(reply.item_id());
    }
    generated += reply.generate().tokens_size();
    if (reply.item_id() == 4) {
      EXPECT_EQ(reply.append().position(), 21u);
    }
  }

  EXPECT_TRUE(stream->Finish().ok());
  EXPECT_EQ(order, (std::vector<uint64_t>{0, 1, 2, 3, 4}));
  EXPECT_EQ(generated, 5u);
}

TEST_F(CallsTest, ARefusedItemHasItsOwnErrorAndTheStreamGoesOn) {
  Open("a", "x");
  grpc::ClientContext context;
  const auto stream = sessions_->Stream(&context);
  std::vector<v1::StreamRequest> requests(5);
  *requests[0].mutable_append() = MakeAppend("a", 7, "gap");
  // requests[1] has no item.
  *requests[2].mutable_append() = MakeAppend("nobody", 0, "x");
  requests[3].mutable_append()->set_session_id("a");  // no position
  *requests[4].mutable_append() = MakeAppend("a", 1, "good");
  for (size_t item = 0; item < requests.size(); ++item) {
    requests[item].set_item_id(item);
    stream->Write(requests[item]);
  }
  stream->WritesDone();
  std::map<uint64_t, std::string> reasons;

  for (v1::StreamReply reply; stream->Read(&reply);) {
    std::string bytes;
    reply.error().SerializeToString(&bytes);
    reasons[reply.item_id()] = reply.has_error() ? ReasonIn(bytes) : "OK";
  }

  EXPECT_TRUE(stream->Finish().ok());
  EXPECT_EQ(reasons,
            (std::map<uint64_t, std::string>{{0, "POSITION_GAP"},
                                             {1, "MISSING_FIELD"},
                                             {2, "SESSION_NOT_FOUND"},
                                             {3, "MISSING_FIELD"},
                                             {4, "OK"}}));
}

TEST_F(CallsTest, ALongAppendTellsItsProgressIfAsked) {
  Open("a", "x");
  grpc::ClientContext context;
  const auto stream = sessions_->Stream(&context);
  v1::StreamRequest request;
  request.set_item_id(9);
  request.set_want_progress(true);
  *request.mutable_append() = MakeAppend("a", 1, std::string(2000, 'y'));
  stream->Write(request);
  stream->WritesDone();
  uint64_t applied = 0;
  int parts = 0;

  for (v1::StreamReply reply; stream->Read(&reply);) {
    EXPECT_EQ(reply.item_id(), 9u);
    if (!reply.has_progress()) continue;
    ++parts;
    EXPECT_GT(reply.progress().applied_position(), applied);
    EXPECT_EQ(reply.progress().end_position(), 2001u);
    applied = reply.progress().applied_position();
  }

  EXPECT_TRUE(stream->Finish().ok());
  EXPECT_GE(parts, 3);  // steps of 512 tokens
}

TEST_F(CallsTest, EveryMethodThatIsNotBuiltSaysSo) {
  const auto refused = [](const grpc::Status& status) {
    EXPECT_EQ(status.error_code(), grpc::StatusCode::UNIMPLEMENTED);
    EXPECT_EQ(ReasonOf(status), "NOT_BUILT");
    EXPECT_THAT(status.error_message(), HasSubstr("not built"));
  };
  const auto call = [&](auto method, auto request, auto reply) {
    grpc::ClientContext context;
    refused((sessions_.get()->*method)(&context, request, &reply));
  };
  using Stub = v1::Sessions::Stub;
  call(&Stub::Rollback, v1::RollbackRequest(), v1::RollbackReply());
  call(&Stub::SaveSnapshot, v1::SaveSnapshotRequest(), v1::SaveSnapshotReply());
  call(&Stub::RestoreSession,
       v1::RestoreSessionRequest(),
       v1::RestoreSessionReply());
  call(&Stub::ListSnapshots,
       v1::ListSnapshotsRequest(),
       v1::ListSnapshotsReply());
  call(&Stub::DeleteSnapshot,
       v1::DeleteSnapshotRequest(),
       v1::DeleteSnapshotReply());
  grpc::ClientContext exporting;
  refused(sessions_->Export(&exporting, v1::ExportRequest())->Finish());
  grpc::ClientContext importing;
  v1::ImportReply reply;
  refused(sessions_->Import(&importing, &reply)->Finish());
}

TEST_F(CallsTest, CodesInGrpcsTableHaveTheirReasons) {
  Open("a", "hello");
  v1::AppendReply reply;
  grpc::ClientContext conflicting;
  const grpc::Status conflict =
      sessions_->Append(&conflicting, MakeAppend("a", 0, "jello"), &reply);
  EXPECT_EQ(conflict.error_code(), grpc::StatusCode::ABORTED);
  EXPECT_EQ(ReasonOf(conflict), "POSITION_CONFLICT");
  google::rpc::Status details;
  ASSERT_TRUE(details.ParseFromString(conflict.error_details()));
  EXPECT_EQ(details.code(), static_cast<int>(conflict.error_code()));
  EXPECT_EQ(details.message(), conflict.error_message());
}

}  // namespace
}  // namespace weir::integration
