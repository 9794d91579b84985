// SPDX-License-Identifier: Apache-2.0
//
// Models of few positions, causal Linformers of 1 to 98 rows, through
// weir-server and gRPC: the start's self-test takes no more tokens than they
// have, clients are told how many, and sessions end exactly there.
#include <cmath>
#include <cstdint>
#include <memory>
#include <random>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "gmock/gmock.h"
#include "google/rpc/error_details.pb.h"
#include "google/rpc/status.pb.h"
#include "gtest/gtest.h"
#include "nlohmann/json.hpp"
#include "tests/engine/model_files.h"
#include "tests/integration/process.h"
#include "tests/integration/server_fixture.h"

namespace weir::integration {
namespace {

using engine::TempFolder;
using engine::TensorFile;
using engine::WriteFileBytes;
using nlohmann::json;
using ::testing::Each;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::Pair;
using ::testing::SizeIs;
using ::testing::Truly;
using ::testing::UnorderedElementsAre;

constexpr const char* kName = "short";
constexpr int64_t kHidden = 16;
constexpr int64_t kInner = 24;
constexpr int64_t kLayers = 2;
constexpr int64_t kSlots = 4;
constexpr uint32_t kVocabulary = 32;

// A Linformer's folder, docs/checkpoints.md, with weights drawn anew from the
// same seed.
class LinformerFolder {
 public:
  explicit LinformerFolder(int64_t n_max,
                           const std::string& past_n_max = "refuse") {
    const json config = {{"model_type", "weir_linformer"},
                         {"hidden_size", kHidden},
                         {"num_hidden_layers", kLayers},
                         {"vocab_size", kVocabulary},
                         {"intermediate_size", kInner},
                         {"num_heads", 2},
                         {"num_slots", kSlots},
                         {"n_max", n_max},
                         {"past_n_max", past_n_max}};
    WriteFileBytes(folder_.File("config.json"), config.dump());
    AddDrawn("model.embeddings.weight", {kVocabulary, kHidden});
    for (int64_t layer = 0; layer < kLayers; ++layer) {
      AddLayer(absl::StrCat("model.layers.", layer, "."), n_max);
    }
    AddNorm("model.norm.weight");
    AddDrawn("lm_head.weight", {kVocabulary, kHidden});
    weights_.Write(folder_.File("model.safetensors"));
  }

  const std::string& path() const { return folder_.path(); }

 private:
  void AddLayer(const std::string& layer, int64_t n_max) {
    AddNorm(layer + "attn_norm.weight");
    for (const char* name : {"q_proj", "k_proj", "v_proj", "o_proj"}) {
      AddDrawn(absl::StrCat(layer, "attn.", name, ".weight"),
               {kHidden, kHidden});
    }
    AddDrawn(layer + "attn.compress_k", {n_max, kSlots});
    AddDrawn(layer + "attn.compress_v", {n_max, kSlots});
    AddNorm(layer + "mlp_norm.weight");
    AddDrawn(layer + "mlp.gate_proj.weight", {kInner, kHidden});
    AddDrawn(layer + "mlp.up_proj.weight", {kInner, kHidden});
    AddDrawn(layer + "mlp.down_proj.weight", {kHidden, kInner});
  }

  void AddDrawn(const std::string& name, const std::vector<int64_t>& shape) {
    std::vector<float> values(static_cast<size_t>(shape[0] * shape[1]));
    for (float& value : values) value = normal_(random_);
    weights_.Add(name, shape, values);
  }

  void AddNorm(const std::string& name) {
    weights_.Add(
        name, {kHidden}, std::vector<float>(static_cast<size_t>(kHidden), 1));
  }

  std::mt19937_64 random_{1};
  std::normal_distribution<float> normal_{0, 0.25};
  TensorFile weights_;
  TempFolder folder_;
};

// Token ids, another one at each position.
std::vector<uint32_t> TokensFrom(uint64_t position, size_t count) {
  std::vector<uint32_t> tokens(count);
  for (size_t i = 0; i < count; ++i) {
    tokens[i] = static_cast<uint32_t>((position + i) * 7 % kVocabulary);
  }
  return tokens;
}

struct Appended {
  grpc::Status status;
  v1::AppendReply reply;
};

struct Generated {
  grpc::Status status;
  std::vector<uint32_t> tokens;
  v1::GenerateReply last;
};

// A model's folder served by weir-server.
class ServedFolder {
 public:
  explicit ServedFolder(const LinformerFolder& folder)
      : server_(WEIR_SERVER_BINARY,
                {"--model",
                 absl::StrCat(kName, "=", folder.path()),
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
    models_ = v1::Models::NewStub(channel_);
  }

  v1::Model Model() {
    v1::GetModelRequest request;
    request.set_name(kName);
    grpc::ClientContext context;
    v1::Model model;
    const grpc::Status status = models_->GetModel(&context, request, &model);
    EXPECT_TRUE(status.ok()) << status.error_message();
    return model;
  }

  void Open(const std::string& id) {
    v1::OpenSessionRequest request;
    request.set_session_id(id);
    request.set_model(kName);
    grpc::ClientContext context;
    v1::OpenSessionReply reply;
    const grpc::Status status =
        sessions_->OpenSession(&context, request, &reply);
    EXPECT_TRUE(status.ok()) << status.error_message();
  }

  // Appends TokensFrom(position, count).
  Appended Append(const std::string& id, uint64_t position, size_t count) {
    v1::AppendRequest request = MakeAppend(id, position, "");
    const std::vector<uint32_t> tokens = TokensFrom(position, count);
    request.mutable_tokens()->Add(tokens.begin(), tokens.end());
    grpc::ClientContext context;
    Appended appended;
    appended.status = sessions_->Append(&context, request, &appended.reply);
    return appended;
  }

  Generated Generate(const std::string& id, uint32_t tokens_max) {
    v1::GenerateRequest request;
    request.set_session_id(id);
    request.set_max_tokens(tokens_max);
    request.set_temperature(0);
    grpc::ClientContext context;
    const auto replies = sessions_->Generate(&context, request);
    Generated generated;
    for (v1::GenerateReply reply; replies->Read(&reply);) {
      generated.tokens.insert(
          generated.tokens.end(), reply.tokens().begin(), reply.tokens().end());
      generated.last = reply;
    }
    generated.status = replies->Finish();
    return generated;
  }

  v1::Session Session(const std::string& id) {
    v1::GetSessionRequest request;
    request.set_session_id(id);
    grpc::ClientContext context;
    v1::Session session;
    const grpc::Status status =
        sessions_->GetSession(&context, request, &session);
    EXPECT_TRUE(status.ok()) << status.error_message();
    return session;
  }

 private:
  Process server_;
  std::shared_ptr<grpc::Channel> channel_;
  std::unique_ptr<v1::Sessions::Stub> sessions_;
  std::unique_ptr<v1::Models::Stub> models_;
};

// OUT_OF_RANGE SESSION_LENGTH, with the longest session and where this one is.
void ExpectTooLong(const grpc::Status& status,
                   uint64_t expected,
                   uint64_t longest,
                   uint64_t position) {
  EXPECT_EQ(status.error_code(), grpc::StatusCode::OUT_OF_RANGE);
  google::rpc::Status details;
  google::rpc::ErrorInfo info;
  ASSERT_TRUE(details.ParseFromString(status.error_details()));
  ASSERT_GE(details.details_size(), 1);
  ASSERT_TRUE(details.details(0).UnpackTo(&info));
  EXPECT_EQ(info.reason(), "SESSION_LENGTH");
  EXPECT_THAT(
      info.metadata(),
      UnorderedElementsAre(Pair("expectedPosition", absl::StrCat(expected)),
                           Pair("longest", absl::StrCat(longest)),
                           Pair("position", absl::StrCat(position))));
  EXPECT_THAT(
      status.error_message(),
      HasSubstr(absl::StrCat("that this model reads, ", longest, " tokens")));
}

// The scores of an append at `position`; the first token of a session has none.
void ExpectScores(const Appended& appended, uint64_t position, size_t count) {
  ASSERT_TRUE(appended.status.ok()) << appended.status.error_message();
  EXPECT_EQ(appended.reply.position(), position + count);
  std::vector<float> scores(appended.reply.scores().begin(),
                            appended.reply.scores().end());
  ASSERT_THAT(scores, SizeIs(count));
  if (position == 0) {
    EXPECT_TRUE(std::isnan(scores[0]));
    scores.erase(scores.begin());
  }
  EXPECT_THAT(scores, Each(Truly([](float score) {
                return std::isfinite(score) && score < 0;
              })));
}

TEST(ModelLimitTest, AnAppendThatPassesTheEndIsRefusedWhole) {
  const LinformerFolder folder(8);
  ServedFolder served(folder);
  EXPECT_EQ(served.Model().positions_max(), 8u);
  served.Open("cut");
  ExpectScores(served.Append("cut", 0, 5), 0, 5);

  ExpectTooLong(served.Append("cut", 5, 4).status, 5, 8, 5);

  EXPECT_EQ(served.Session("cut").position(), 5u);
  EXPECT_EQ(served.Session("cut").applied_position(), 5u);
  EXPECT_FALSE(served.Session("cut").quarantined());
  const Appended rest = served.Append("cut", 5, 3);
  ExpectScores(rest, 5, 3);
  ExpectTooLong(served.Append("cut", 8, 1).status, 8, 8, 8);
  EXPECT_EQ(served.Session("cut").position(), 8u);
  // What is there may be sent again, what has no tokens asks the position.
  EXPECT_TRUE(served.Append("cut", 5, 3).reply.duplicate());
  EXPECT_EQ(served.Append("cut", 8, 0).reply.position(), 8u);

  // The refusals left nothing in the state.
  served.Open("whole");
  ExpectTooLong(served.Append("whole", 0, 9).status, 0, 8, 0);
  const Appended whole = served.Append("whole", 0, 8);
  ExpectScores(whole, 0, 8);
  ASSERT_EQ(whole.reply.scores_size(), 8);
  for (int i = 0; i < rest.reply.scores_size(); ++i) {
    EXPECT_NEAR(rest.reply.scores(i), whole.reply.scores(5 + i), 1e-4) << i;
  }
}

TEST(ModelLimitTest, AGenerationEndsWhereTheModelDoes) {
  const LinformerFolder folder(8);
  ServedFolder served(folder);
  served.Open("s");
  ExpectScores(served.Append("s", 0, 5), 0, 5);

  const Generated generated = served.Generate("s", 100);

  ASSERT_TRUE(generated.status.ok()) << generated.status.error_message();
  EXPECT_THAT(generated.tokens, SizeIs(3));
  EXPECT_EQ(generated.last.finish_reason(), v1::FINISH_REASON_LENGTH);
  EXPECT_EQ(generated.last.position(), 8u);
  EXPECT_EQ(served.Session("s").position(), 8u);
  const Generated none = served.Generate("s", 1);
  EXPECT_THAT(none.tokens, IsEmpty());
  ExpectTooLong(none.status, 8, 8, 8);
}

// With room for less than the self-test's draws, for all of them, and for just
// what it wants.
TEST(ModelLimitTest, AModelOfAnyFewPositionsStartsAndIsUsedToItsEnd) {
  for (const uint64_t n_max : {1, 2, 3, 97, 98}) {
    SCOPED_TRACE(n_max);
    const LinformerFolder folder(static_cast<int64_t>(n_max));
    ServedFolder served(folder);

    EXPECT_EQ(served.Model().positions_max(), n_max);

    served.Open("s");
    ExpectTooLong(served.Append("s", 0, n_max + 1).status, 0, n_max, 0);
    ExpectScores(served.Append("s", 0, n_max), 0, n_max);
    ExpectTooLong(served.Generate("s", 1).status, n_max, n_max, n_max);
  }
}

TEST(ModelLimitTest, SegmentsHaveNoEnd) {
  const LinformerFolder folder(8, "new_segment");
  ServedFolder served(folder);
  EXPECT_EQ(served.Model().positions_max(), 0u);
  served.Open("s");

  ExpectScores(served.Append("s", 0, 20), 0, 20);

  const Generated generated = served.Generate("s", 5);
  ASSERT_TRUE(generated.status.ok()) << generated.status.error_message();
  EXPECT_THAT(generated.tokens, SizeIs(5));
  EXPECT_EQ(generated.last.finish_reason(), v1::FINISH_REASON_LENGTH);
  EXPECT_EQ(served.Session("s").position(), 25u);
}

std::string Inspect(const LinformerFolder& folder, Words words = {}) {
  words.insert(words.end(), {"models", "inspect", folder.path()});
  Process weir(WEIR_BINARY, words);
  const std::string out = weir.RestOfOut();
  EXPECT_EQ(weir.Wait(), 0) << weir.RestOfErr();
  return out;
}

TEST(ModelLimitTest, AFoldersLimitIsSeenWithoutAServer) {
  const LinformerFolder ends(8);
  EXPECT_THAT(Inspect(ends), HasSubstr("\npositions max   8 tokens\n"));
  EXPECT_EQ(json::parse(Inspect(ends, {"--json"})).at("positions_max"), 8);

  const LinformerFolder goes_on(8, "new_segment");
  EXPECT_THAT(Inspect(goes_on), HasSubstr("\npositions max   no limit\n"));
  EXPECT_EQ(json::parse(Inspect(goes_on, {"--json"})).at("positions_max"),
            nullptr);
}

}  // namespace
}  // namespace weir::integration
