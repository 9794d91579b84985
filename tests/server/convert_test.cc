// SPDX-License-Identifier: Apache-2.0
#include "server/convert.h"

#include <google/protobuf/unknown_field_set.h>

#include <limits>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "gmock/gmock.h"
#include "google/rpc/error_details.pb.h"
#include "google/rpc/status.pb.h"
#include "gtest/gtest.h"
#include "service/error.h"
#include "weir/v1/admin.pb.h"
#include "weir/v1/models.pb.h"
#include "weir/v1/sessions.pb.h"

namespace weir::server {
namespace {

using service::Reason;
using ::testing::ElementsAre;

Served MakeServed(bool takes_text = true) {
  Served served;
  served.name = "demo";
  served.model.family = "gated_deltanet";
  served.model.vocabulary = 256;
  served.model.state_bytes = 4096;
  if (takes_text) served.tokenizer = text::Tokenizer();
  return served;
}

template <typename Parser>
auto ParseWith(Parser parse,
               const google::protobuf::Message& message,
               const Served& served = MakeServed()) {
  const std::string bytes = message.SerializeAsString();
  Wire wire{bytes, served};
  return parse(wire);
}

google::protobuf::UnknownFieldSet& UnknownOf(
    google::protobuf::Message& message) {
  return *message.GetReflection()->MutableUnknownFields(&message);
}

template <typename Message>
Message Read(const grpc::ByteBuffer& buffer) {
  std::vector<grpc::Slice> slices;
  EXPECT_TRUE(buffer.Dump(&slices).ok());
  std::string bytes;
  for (const grpc::Slice& slice : slices) {
    bytes.append(reinterpret_cast<const char*>(slice.begin()), slice.size());
  }
  Message message;
  EXPECT_TRUE(message.ParseFromString(bytes));
  return message;
}

TEST(ConvertTest, AnAppendCarriesEveryField) {
  v1::AppendRequest message;
  message.set_session_id("a");
  message.set_expected_position(7);
  for (uint32_t token : {1u, 2u, 255u}) message.add_tokens(token);
  message.set_want_scores(true);
  message.set_durability(v1::DURABILITY_SHARED);

  const auto request = ParseWith(&ParseAppend, message);

  ASSERT_TRUE(request.ok()) << request.status();
  EXPECT_EQ(request->session_id, "a");
  EXPECT_EQ(request->expected_position, 7u);
  EXPECT_THAT(request->tokens, ElementsAre(1, 2, 255));
  EXPECT_TRUE(request->want_scores);
  EXPECT_EQ(request->durability, service::Durability::kShared);
}

TEST(ConvertTest, TokensAreCountedBeforeTheyAreCopied) {
  v1::AppendRequest tokens;
  tokens.set_session_id("a");
  tokens.set_expected_position(0);
  v1::AppendRequest text = tokens;
  for (int n = 0; n < 65'536; ++n) tokens.add_tokens(1);
  text.set_text(std::string(65'536, 'x'));
  EXPECT_TRUE(ParseWith(&ParseAppend, tokens).ok());
  EXPECT_TRUE(ParseWith(&ParseAppend, text).ok());

  tokens.add_tokens(1);
  text.mutable_text()->push_back('x');

  for (const v1::AppendRequest& one_more : {tokens, text}) {
    const auto refused = ParseWith(&ParseAppend, one_more);
    EXPECT_EQ(service::ReasonOf(refused.status()), Reason::kTooManyTokens);
    EXPECT_THAT(
        service::ValuesOf(refused.status()),
        ElementsAre(std::pair("limit", "65536"), std::pair("tokens", "65537")));
  }
}

TEST(ConvertTest, AGenerationCarriesEveryFieldAndAbsentOnesTheirDefaults) {
  v1::GenerateRequest message;
  message.set_session_id("a");
  const auto plain = ParseWith(&ParseGenerate, message);
  ASSERT_TRUE(plain.ok());
  EXPECT_EQ(plain->sampling.temperature, 1);
  EXPECT_EQ(plain->sampling.top_p, 1);
  EXPECT_EQ(plain->sampling.min_p, 0);
  EXPECT_EQ(plain->sampling.repetition_penalty, 1);
  EXPECT_FALSE(plain->sampling.seed.has_value());
  EXPECT_FALSE(plain->expected_position.has_value());
  EXPECT_NE(plain->text, nullptr);

  message.set_expected_position(0);
  message.set_request_id("r");
  message.set_max_tokens(9);
  message.set_temperature(0);
  message.set_top_k(3);
  message.set_top_p(0.5);
  message.set_min_p(0.25);
  message.set_repetition_penalty(2);
  message.set_seed(0);
  message.add_stop_strings("x");
  message.add_stop_tokens(4);
  message.set_want_log_probs(true);
  const auto full = ParseWith(&ParseGenerate, message);
  ASSERT_TRUE(full.ok());
  EXPECT_EQ(full->expected_position, 0u);
  EXPECT_THAT(full->stop_strings, ElementsAre("x"));
  EXPECT_EQ(full->request_id, "r");
  EXPECT_EQ(full->max_tokens, 9u);
  EXPECT_EQ(full->sampling.temperature, 0);
  EXPECT_EQ(full->sampling.top_k, 3);
  EXPECT_EQ(full->sampling.top_p, 0.5f);
  EXPECT_EQ(full->sampling.min_p, 0.25f);
  EXPECT_EQ(full->sampling.repetition_penalty, 2);
  EXPECT_EQ(full->sampling.seed, 0u);
  EXPECT_THAT(full->stop_tokens, ElementsAre(4));
  EXPECT_TRUE(full->want_log_probs);
}

TEST(ConvertTest, TextGoesThroughTheModelsTokenizer) {
  Served served = MakeServed();
  auto vocabulary =
      text::RwkvVocabulary::Parse("1 'a' 1\n2 'b' 1\n3 'ab' 2\n", 256);
  ASSERT_TRUE(vocabulary.ok());
  served.tokenizer = text::Tokenizer(*std::move(vocabulary));
  v1::AppendRequest append;
  append.set_session_id("a");
  append.set_expected_position(0);
  append.set_text("abb");
  EXPECT_THAT(ParseWith(&ParseAppend, append, served)->tokens,
              ElementsAre(3, 2));

  append.set_text("abc");
  const auto refused = ParseWith(&ParseAppend, append, served);
  EXPECT_EQ(service::ReasonOf(refused.status()), Reason::kBadValue);
  EXPECT_EQ(refused.status().message(),
            "text: the vocabulary has no token for byte 2 of the text");

  v1::GetModelRequest get;
  get.set_name("demo");
  const auto reply = ParseWith(&AnswerGetModel, get, served);
  ASSERT_TRUE(reply.ok());
  EXPECT_EQ(Read<v1::Model>(*reply).tokenizer(), "rwkv");
}

TEST(ConvertTest, AModelWithoutTextTakesNone) {
  const Served tokens_only = MakeServed(false);
  v1::AppendRequest append;
  append.set_session_id("a");
  append.set_expected_position(0);
  append.set_text("hello");
  v1::GenerateRequest generate;
  generate.set_session_id("a");
  const auto plain = ParseWith(&ParseGenerate, generate, tokens_only);
  generate.add_stop_strings("x");

  EXPECT_EQ(
      service::ReasonOf(ParseWith(&ParseAppend, append, tokens_only).status()),
      Reason::kTextUnsupported);
  EXPECT_EQ(service::ReasonOf(
                ParseWith(&ParseGenerate, generate, tokens_only).status()),
            Reason::kTextUnsupported);
  ASSERT_TRUE(plain.ok());
  EXPECT_EQ(plain->text, nullptr);
}

struct DurationCase {
  int64_t seconds;
  int32_t nanos;
  bool good;
};

TEST(ConvertTest, DurationsAreCheckedBeforeTheyAreUsed) {
  constexpr int64_t kMost = 315'576'000'000;
  const DurationCase cases[] = {
      {0, 0, true},
      {1, 999'999'999, true},
      {kMost, 0, true},
      {-1, -1, true},  // a duration; the service refuses it by its range
      {kMost + 1, 0, false},
      {-kMost - 1, 0, false},
      {std::numeric_limits<int64_t>::max(), 0, false},
      {std::numeric_limits<int64_t>::min(), 0, false},
      {0, 1'000'000'000, false},
      {0, -1'000'000'000, false},
      {1, -1, false},
      {-1, 1, false},
      {0, std::numeric_limits<int32_t>::min(), false},
  };
  for (const DurationCase& test : cases) {
    v1::OpenSessionRequest message;
    message.set_model("demo");
    message.mutable_idle_timeout()->set_seconds(test.seconds);
    message.mutable_idle_timeout()->set_nanos(test.nanos);
    const auto request = ParseWith(&ParseOpen, message);
    SCOPED_TRACE(absl::StrCat(test.seconds, " s ", test.nanos, " ns"));
    EXPECT_EQ(request.ok(), test.good);
    if (request.ok()) {
      EXPECT_EQ(request->idle_timeout,
                absl::Seconds(test.seconds) + absl::Nanoseconds(test.nanos));
    } else {
      EXPECT_EQ(service::ReasonOf(request.status()), Reason::kBadTtl);
    }
  }
}

TEST(ConvertTest, UnknownFieldsAreCountedDeepDown) {
  v1::StreamRequest message;
  message.mutable_append()->set_session_id("a");
  message.mutable_append()->set_expected_position(0);
  UnknownOf(message).AddVarint(900, 1);
  UnknownOf(*message.mutable_append()).AddVarint(901, 1);
  UnknownOf(*message.mutable_append()).AddLengthDelimited(902, "x");
  const std::string bytes = message.SerializeAsString();
  const Served served = MakeServed();
  Wire wire{bytes, served};

  const auto item = ParseStreamItem(wire);

  ASSERT_TRUE(item.ok());
  EXPECT_TRUE(std::holds_alternative<service::AppendRequest>(item->request));
  EXPECT_EQ(wire.unknown_fields, 3);
}

TEST(ConvertTest, ARefusedItemOfAStreamKeepsItsId) {
  v1::StreamRequest message;
  message.set_item_id(12);

  const auto item = ParseWith(&ParseStreamItem, message);

  ASSERT_TRUE(item.ok());
  EXPECT_EQ(item->item_id, 12u);
  EXPECT_EQ(service::ReasonOf(std::get<absl::Status>(item->request)),
            Reason::kMissingField);
}

TEST(ConvertTest, AListsNextPageStartsAfterItsLastSession) {
  service::ListResult result;
  result.sessions.resize(2);
  result.sessions[0].session_id = "a";
  result.sessions[1].session_id = "b";
  result.more = true;
  EXPECT_EQ(
      Read<v1::ListSessionsReply>(Pack(result, MakeServed())).next_page_token(),
      "b");
  result.more = false;
  EXPECT_EQ(
      Read<v1::ListSessionsReply>(Pack(result, MakeServed())).next_page_token(),
      "");

  v1::ListSessionsRequest next;
  next.set_page_token("b");
  EXPECT_EQ(ParseWith(&ParseList, next)->after, "b");
}

TEST(ConvertTest, ASessionsTimesAndTotalsComeThrough) {
  service::SessionInfo info;
  info.session_id = "a";
  info.position = 9;
  info.applied_position = 8;
  info.scored_tokens = 7;
  info.sum_log_prob = -1.5;
  info.idle_timeout = absl::Seconds(3600);
  info.idle = absl::Milliseconds(1500);
  info.quarantined = true;

  const auto message = Read<v1::Session>(Pack(info, MakeServed()));

  EXPECT_EQ(message.position(), 9u);
  EXPECT_EQ(message.applied_position(), 8u);
  EXPECT_EQ(message.scored_tokens(), 7u);
  EXPECT_EQ(message.sum_log_prob(), -1.5);
  EXPECT_EQ(message.idle_timeout().seconds(), 3600);
  EXPECT_EQ(message.idle().seconds(), 1);
  EXPECT_EQ(message.idle().nanos(), 500'000'000);
  EXPECT_EQ(message.state_bytes(), 4096u);
  EXPECT_TRUE(message.quarantined());
}

google::rpc::Status DetailsOf(const grpc::Status& status) {
  google::rpc::Status details;
  EXPECT_TRUE(details.ParseFromString(status.error_details()));
  return details;
}

TEST(ConvertTest, EveryReasonHasItsCodeItsNameAndItsRetry) {
  for (const service::ReasonInfo& row : service::Reasons()) {
    const absl::Status status =
        service::Error(row.reason, "what, limit 3", {{"limit", "3"}});

    const grpc::Status wire = ToGrpc(status);

    SCOPED_TRACE(std::string(row.name));
    EXPECT_EQ(static_cast<int>(wire.error_code()),
              static_cast<int>(status.code()));
    EXPECT_EQ(wire.error_message(), "what, limit 3");
    const google::rpc::Status details = DetailsOf(wire);
    EXPECT_EQ(details.code(), static_cast<int>(status.code()));
    const bool retry = row.retry_after > absl::ZeroDuration();
    ASSERT_EQ(details.details_size(), retry ? 2 : 1);
    google::rpc::ErrorInfo info;
    ASSERT_TRUE(details.details(0).UnpackTo(&info));
    EXPECT_EQ(info.reason(), row.name);
    EXPECT_EQ(info.domain(), "weir.dev");
    EXPECT_EQ(info.metadata().at("limit"), "3");
    google::rpc::RetryInfo wait;
    if (!retry) continue;
    ASSERT_TRUE(details.details(1).UnpackTo(&wait));
    EXPECT_EQ(absl::Seconds(wait.retry_delay().seconds()) +
                  absl::Nanoseconds(wait.retry_delay().nanos()),
              row.retry_after);
  }
}

TEST(ConvertTest, LongMessagesAndValuesAreCutBetweenCharacters) {
  std::string text = "x";
  while (text.size() < 100'000) text += "\u20ac";

  const grpc::Status wire =
      ToGrpc(service::Error(Reason::kBadValue, text, {{"value", text}}));

  EXPECT_LT(wire.error_message().size(), 1100u);
  EXPECT_LT(wire.error_details().size(), 2000u);
  EXPECT_TRUE(wire.error_message().ends_with("\u20ac..."));
}

TEST(ConvertTest, AStatusWithoutAReasonHasNoDetails) {
  const grpc::Status wire = ToGrpc(absl::DeadlineExceededError("late"));

  EXPECT_EQ(wire.error_code(), grpc::StatusCode::DEADLINE_EXCEEDED);
  EXPECT_EQ(DetailsOf(wire).details_size(), 0);
  EXPECT_TRUE(ToGrpc(absl::OkStatus()).ok());
}

TEST(ConvertTest, AModelIsAnsweredWithWhatItIs) {
  Served served = MakeServed();
  served.model.start_token = 0;
  served.model.positions_max = 512;
  v1::GetModelRequest request;
  request.set_name("demo");

  const auto reply = ParseWith(&AnswerGetModel, request, served);

  ASSERT_TRUE(reply.ok());
  const auto model = Read<v1::Model>(*reply);
  EXPECT_EQ(model.family(), "gated_deltanet");
  EXPECT_TRUE(model.has_start_token());
  EXPECT_EQ(model.start_token(), 0u);
  EXPECT_EQ(model.positions_max(), 512u);
}

}  // namespace
}  // namespace weir::server
