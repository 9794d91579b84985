// SPDX-License-Identifier: Apache-2.0
//
// Every checkpoint of tests/golden through weir-server and gRPC, as a client
// sees it: scores in appends of any length, and how the session goes on.
#include <signal.h>

#include <algorithm>
#include <cmath>
#include <memory>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "gtest/gtest.h"
#include "tests/golden/golden_file.h"
#include "tests/integration/process.h"
#include "tests/integration/server_fixture.h"

namespace weir::integration {
namespace {

constexpr double kTolerance = 1e-3;
constexpr size_t kWhole = 65'536;
constexpr uint32_t kGreedyMax = 24;

std::string FolderOf(const std::string& name) {
  return absl::StrCat(WEIR_SOURCE_DIR, "/tests/golden/", name);
}

std::vector<std::string> Names() { return golden::GoldenFolders(FolderOf("")); }

class FamilyTest : public ::testing::TestWithParam<std::string> {
 protected:
  FamilyTest()
      : golden_(
            golden::ReadGolden(FolderOf(GetParam()) + "/golden.safetensors")),
        server_(WEIR_SERVER_BINARY,
                {"--model",
                 "golden=" + FolderOf(GetParam()),
                 "--listen",
                 "127.0.0.1:0",
                 "--metrics-listen",
                 "off",
                 "--slots",
                 "4"}) {
    const std::string address =
        AddressAfter(server_.OutTo("listening on "), "listening on ");
    EXPECT_NE(address, "") << server_.RestOfErr();
    channel_ = grpc::CreateChannel(address, grpc::InsecureChannelCredentials());
    sessions_ = v1::Sessions::NewStub(channel_);
  }

  void Open(const std::string& id) {
    v1::OpenSessionRequest request;
    request.set_session_id(id);
    request.set_model("golden");
    grpc::ClientContext context;
    v1::OpenSessionReply reply;
    const grpc::Status status =
        sessions_->OpenSession(&context, request, &reply);
    ASSERT_TRUE(status.ok()) << status.error_message();
  }

  // Appends all tokens in pieces; their scores.
  std::vector<float> Scores(const std::string& id, size_t piece) {
    std::vector<float> scores;
    const std::vector<uint32_t>& tokens = golden_.tokens;
    for (size_t begin = 0; begin < tokens.size(); begin += piece) {
      const size_t end = std::min(begin + piece, tokens.size());
      v1::AppendRequest request = MakeAppend(id, begin, "");
      request.mutable_tokens()->Add(tokens.data() + begin, tokens.data() + end);
      grpc::ClientContext context;
      v1::AppendReply reply;
      const grpc::Status status = sessions_->Append(&context, request, &reply);
      EXPECT_TRUE(status.ok()) << status.error_message();
      if (!status.ok()) return scores;
      scores.insert(scores.end(), reply.scores().begin(), reply.scores().end());
    }
    return scores;
  }

  std::vector<uint32_t> Continue(const std::string& id, uint32_t count) {
    v1::GenerateRequest request;
    request.set_session_id(id);
    request.set_max_tokens(count);
    request.set_temperature(0);
    grpc::ClientContext context;
    const auto replies = sessions_->Generate(&context, request);
    std::vector<uint32_t> tokens;
    for (v1::GenerateReply reply; replies->Read(&reply);) {
      tokens.insert(tokens.end(), reply.tokens().begin(), reply.tokens().end());
    }
    const grpc::Status status = replies->Finish();
    EXPECT_TRUE(status.ok()) << status.error_message();
    return tokens;
  }

  // Beyond a near tie the two may rightly part.
  void ExpectGreedy(const std::vector<uint32_t>& tokens) const {
    size_t compared = 0;
    while (compared < tokens.size() &&
           golden_.greedy_margin.at(compared) >= 10 * kTolerance) {
      EXPECT_EQ(tokens[compared], golden_.greedy.at(compared))
          << "token " << compared << " of the continuation";
      ++compared;
    }
    EXPECT_GE(compared, 4u);
  }

  const golden::Golden golden_;
  Process server_;
  std::shared_ptr<grpc::Channel> channel_;
  std::unique_ptr<v1::Sessions::Stub> sessions_;
};

TEST_P(FamilyTest, ScoresAndGoesOnAsTheAuthorsCodeHoweverItIsSplit) {
  ASSERT_FALSE(golden_.positions.empty());
  for (const size_t piece : {kWhole, size_t{1}, size_t{7}, size_t{100}}) {
    SCOPED_TRACE(absl::StrCat("appends of ", piece));
    const std::string id = absl::StrCat("in-", piece);
    ASSERT_NO_FATAL_FAILURE(Open(id));

    const std::vector<float> scores = Scores(id, piece);

    ASSERT_EQ(scores.size(), golden_.tokens.size());
    EXPECT_TRUE(std::isnan(scores[0]));
    double worst = 0;
    size_t compared = 0;
    for (size_t row = 0; row < golden_.positions.size(); ++row) {
      const auto next = static_cast<size_t>(golden_.positions[row]) + 1;
      if (next == scores.size()) continue;
      const double error = std::abs(
          scores[next] - golden_.LogProbability(row, golden_.tokens[next]));
      // Not std::max, which a NaN would pass through.
      if (!(error <= worst)) worst = error;
      ++compared;
    }
    EXPECT_LE(worst, kTolerance);
    EXPECT_GE(compared, golden_.positions.size() - 1);
    const size_t count = std::min<size_t>(kGreedyMax, golden_.greedy.size());
    ExpectGreedy(Continue(id, static_cast<uint32_t>(count)));
  }
  // An open connection would be given time to take its last answers.
  sessions_.reset();
  channel_.reset();
  server_.Signal(SIGTERM);
  EXPECT_EQ(server_.Wait(), 0);
}

INSTANTIATE_TEST_SUITE_P(Golden,
                         FamilyTest,
                         ::testing::ValuesIn(Names()),
                         [](const auto& info) { return info.param; });

TEST(FamiliesTest, NoneHasGoneAstray) { EXPECT_GE(Names().size(), 19u); }

}  // namespace
}  // namespace weir::integration
