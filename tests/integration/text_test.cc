// SPDX-License-Identifier: Apache-2.0
//
// Models with tokenizers of their own, through weir-server, gRPC and the tool:
// text in, text out.
#include <chrono>
#include <cstdio>
#include <memory>
#include <string>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "nlohmann/json.hpp"
#include "tests/engine/model_files.h"
#include "tests/integration/process.h"
#include "tests/integration/server_fixture.h"
#include "tests/text/small_tokenizer.h"
#include "text/tokenizer.h"
#include "text/utf8.h"

namespace weir::integration {
namespace {

using engine::WriteFileBytes;
using nlohmann::json;
using ::testing::HasSubstr;
using ::testing::StartsWith;
using text::Decoder;
using text::InvalidUtf8At;
using text::Tokenizer;

constexpr uint32_t kVocabulary = 300;
constexpr const char* kDocument =
    "the cat's 12,345 caf\u00e9s aaaaaaa\n\u4f60\u597d, the \U0001f600 and "
    "e\u0301\n\nthe end<|end|> of the text";

// RWKV's vocabulary of 256 bytes and some words.
std::string RwkvFile() {
  std::string file;
  char line[32];
  for (unsigned byte = 0; byte < 256; ++byte) {
    std::snprintf(line, sizeof(line), "%u b'\\x%02x' 1\n", byte + 1, byte);
    file += line;
  }
  return file + "257 'the' 3\n258 ' the' 4\n259 'aaa' 3\n";
}

struct KindCase {
  const char* kind;
  const char* file;
  std::string bytes;
  uint32_t size;  // of the tokenizer
};

std::vector<KindCase> Kinds() {
  json spaces = text::SpaceLevelFile();
  return {{"ByteLevel", "tokenizer.json", text::ByteLevelFile().dump(), 261},
          {"Metaspace", "tokenizer.json", spaces.dump(), 264},
          {"Rwkv", "rwkv_vocab_small.txt", RwkvFile(), 260}};
}

// A small model whose ids go to kVocabulary.
void Widen(engine::ModelCopy& model) {
  for (const char* name : {"model.embeddings.weight", "lm_head.weight"}) {
    std::vector<float> values = model.weights.Floats(name);
    values.resize(kVocabulary * 64, 0.01f);
    model.weights.Add(name, {kVocabulary, 64}, values);
  }
  model.config["vocab_size"] = kVocabulary;
  model.Write();
}

struct Said {
  int code = 0;
  std::string out;
  std::string err;
};

class TextTest : public ::testing::TestWithParam<KindCase> {
 protected:
  TextTest() : model_("tests/golden/fla_gated_deltanet") {
    Widen(model_);
    WriteFileBytes(model_.File(GetParam().file), GetParam().bytes);
    tokenizer_ = **text::LoadTokenizer(model_.path(), kVocabulary);
    server_ = std::make_unique<Process>(WEIR_SERVER_BINARY,
                                        Words{"--model",
                                              "small=" + model_.path(),
                                              "--listen",
                                              "127.0.0.1:0",
                                              "--metrics-listen",
                                              "off",
                                              "--slots",
                                              "8"});
    address_ = AddressAfter(server_->OutTo("listening on "), "listening on ");
    EXPECT_NE(address_, "") << server_->RestOfErr();
    sessions_ = v1::Sessions::NewStub(
        grpc::CreateChannel(address_, grpc::InsecureChannelCredentials()));
  }

  Said Weir(const Words& words, const std::string& input = "") const {
    Words all = {"--server", address_};
    all.insert(all.end(), words.begin(), words.end());
    Process weir(WEIR_BINARY, all, input);
    Said said;
    said.out = weir.RestOfOut();
    said.err = weir.RestOfErr();
    said.code = weir.Wait();
    return said;
  }

  void Open(const std::string& id) {
    v1::OpenSessionRequest request;
    request.set_session_id(id);
    request.set_model("small");
    request.set_seed(7);
    grpc::ClientContext context;
    v1::OpenSessionReply reply;
    const grpc::Status status =
        sessions_->OpenSession(&context, request, &reply);
    ASSERT_TRUE(status.ok()) << status.error_message();
  }

  grpc::Status Append(const std::string& id,
                      uint64_t position,
                      const std::string& text,
                      v1::AppendReply& reply) {
    v1::AppendRequest request = MakeAppend(id, position, "");
    request.set_text(text);
    grpc::ClientContext context;
    return sessions_->Append(&context, request, &reply);
  }

  struct Generated {
    std::vector<uint32_t> tokens;
    std::string text;
    std::string stop;
    v1::FinishReason reason = v1::FINISH_REASON_UNSPECIFIED;
  };

  Generated Generate(const std::string& id, const std::string& stop) {
    v1::GenerateRequest request;
    request.set_session_id(id);
    request.set_max_tokens(400);
    if (!stop.empty()) request.add_stop_strings(stop);
    grpc::ClientContext context;
    const auto replies = sessions_->Generate(&context, request);
    Generated out;
    for (v1::GenerateReply reply; replies->Read(&reply);) {
      EXPECT_FALSE(InvalidUtf8At(reply.text())) << "in a part";
      out.tokens.insert(
          out.tokens.end(), reply.tokens().begin(), reply.tokens().end());
      out.text += reply.text();
      out.reason = reply.finish_reason();
      out.stop = reply.stop_string();
    }
    const grpc::Status status = replies->Finish();
    EXPECT_TRUE(status.ok()) << status.error_message();
    return out;
  }

  std::vector<uint32_t> Ids(const std::string& text) const {
    return *tokenizer_.Encode(text);
  }

  engine::ModelCopy model_;
  Tokenizer tokenizer_;
  std::unique_ptr<Process> server_;
  std::string address_;
  std::unique_ptr<v1::Sessions::Stub> sessions_;
};

TEST_P(TextTest, AppendedTextIsItsTokens) {
  const std::vector<uint32_t> ids = Ids(kDocument);
  ASSERT_NO_FATAL_FAILURE(Open("text"));
  ASSERT_NO_FATAL_FAILURE(Open("ids"));
  v1::AppendReply as_text;
  ASSERT_TRUE(Append("text", 0, kDocument, as_text).ok());
  v1::AppendRequest request = MakeAppend("ids", 0, "");
  request.mutable_tokens()->Add(ids.begin(), ids.end());
  grpc::ClientContext context;
  v1::AppendReply as_ids;
  ASSERT_TRUE(sessions_->Append(&context, request, &as_ids).ok());

  EXPECT_EQ(as_text.position(), ids.size());
  ASSERT_EQ(as_text.scores_size(), as_ids.scores_size());
  for (int i = 1; i < as_text.scores_size(); ++i) {
    EXPECT_EQ(as_text.scores(i), as_ids.scores(i));
  }
  v1::AppendReply again;
  ASSERT_TRUE(Append("text", 0, kDocument, again).ok());
  EXPECT_TRUE(again.duplicate());
  EXPECT_EQ(again.position(), ids.size());
}

TEST_P(TextTest, GeneratedTextIsThatOfTheTokensWhateverTheyAre) {
  ASSERT_NO_FATAL_FAILURE(Open("a"));
  v1::AppendReply reply;
  ASSERT_TRUE(Append("a", 0, kDocument, reply).ok());

  const Generated generated = Generate("a", "");

  EXPECT_EQ(generated.reason, v1::FINISH_REASON_LENGTH);
  ASSERT_EQ(generated.tokens.size(), 400u);
  Decoder decoder(tokenizer_, Decoder::Place::kContinue);
  std::string text;
  for (const uint32_t id : generated.tokens) text += decoder.Push(id);
  text += decoder.Flush();
  EXPECT_EQ(generated.text, text);
}

// The same draws, with a stop string that lies over the border of two tokens.
TEST_P(TextTest, AStopStringIsFoundOverTheBordersOfTokens) {
  ASSERT_NO_FATAL_FAILURE(Open("a"));
  v1::AppendReply reply;
  ASSERT_TRUE(Append("a", 0, kDocument, reply).ok());
  v1::ForkRequest fork;
  fork.set_session_id("a");
  fork.set_new_session_id("b");
  fork.set_seed(7);
  grpc::ClientContext context;
  v1::ForkReply forked;
  ASSERT_TRUE(sessions_->Fork(&context, fork, &forked).ok());
  const Generated free = Generate("a", "");
  const auto is_plain = [&](size_t i) {
    const std::string_view bytes = tokenizer_.Bytes(free.tokens[i]);
    return !bytes.empty() &&
           std::all_of(bytes.begin(), bytes.end(), [](char c) {
             return c > ' ' && c < 127;
           });
  };
  size_t at = 8;
  while (at + 1 < free.tokens.size() && !(is_plain(at) && is_plain(at + 1))) {
    ++at;
  }
  ASSERT_LT(at + 1, free.tokens.size()) << "no two plain tokens in 400";
  const std::string stop = std::string(tokenizer_.Bytes(free.tokens[at])) +
                           std::string(tokenizer_.Bytes(free.tokens[at + 1]));

  const Generated stopped = Generate("b", stop);

  EXPECT_EQ(stopped.reason, v1::FINISH_REASON_STOP);
  EXPECT_EQ(stopped.stop, stop);
  const size_t first = free.text.find(stop);
  ASSERT_NE(first, std::string::npos);
  EXPECT_EQ(stopped.text, free.text.substr(0, first));
  EXPECT_LE(stopped.tokens.size(), at + 2);
  EXPECT_TRUE(std::equal(
      stopped.tokens.begin(), stopped.tokens.end(), free.tokens.begin()));
}

TEST_P(TextTest, TheToolStreamsGeneratesAndChats) {
  std::string document;
  while (document.size() < 20'000) document += kDocument + std::string("\n");
  const std::string path = model_.File("document.txt");
  WriteFileBytes(path, document);

  const Said streamed = Weir({"--json", "stream", path, "--session", "doc"});

  ASSERT_EQ(streamed.code, 0) << streamed.err;
  const json summary = json::parse(streamed.out.substr(
      streamed.out.rfind("\n", streamed.out.size() - 2) + 1));
  EXPECT_EQ(summary["event"], "summary");
  const uint64_t position = summary["position"].get<uint64_t>();
  EXPECT_GT(position, document.size() / 3);
  // The start token, and a token before each block at the most.
  EXPECT_NEAR(static_cast<double>(position),
              static_cast<double>(Ids(document).size()),
              6);
  EXPECT_EQ(summary["scored_tokens"], position - 1);
  EXPECT_GT(summary["bits_per_token"].get<double>(), 0);

  const Words generate = {"generate",
                          "--session",
                          "doc",
                          "--prompt",
                          "the caf\u00e9",
                          "--max-tokens",
                          "60",
                          "--seed",
                          "3"};
  const Said generated = Weir(generate);
  EXPECT_EQ(generated.code, 0) << generated.err;
  EXPECT_GT(generated.out.size(), 10u);
  EXPECT_FALSE(InvalidUtf8At(generated.out));

  const Said chat = Weir({"chat", "--session", "talk", "--max-tokens", "20"},
                         "hello \u4f60\u597d\n/position\n/quit\n");
  EXPECT_EQ(chat.code, 0) << chat.err;
  EXPECT_FALSE(InvalidUtf8At(chat.out));
  EXPECT_GT(chat.out.size(), 2u);
}

TEST_P(TextTest, TheToolRefusesADocumentThatIsNoTextAndSaysWhere) {
  const std::string path = model_.File("document.txt");
  WriteFileBytes(path, "good\xff");

  const Said said = Weir({"stream", path, "--session", "doc"});

  EXPECT_EQ(said.code, 1);
  EXPECT_THAT(said.err, HasSubstr("not UTF-8 at byte 4"));
  EXPECT_THAT(Weir({"stream", path, "--session", "doc", "--resume"}).err,
              HasSubstr("--resume works with --ids"));
}

// Row D11 of the catalogue of bad inputs.
TEST_P(TextTest, TextThatIsNoneIsRefusedAndALongLineTakesNoLongerThanItMust) {
  ASSERT_NO_FATAL_FAILURE(Open("a"));
  v1::AppendReply reply;
  ASSERT_TRUE(Append("a", 0, "the", reply).ok());
  const uint64_t position = reply.position();
  for (const std::string bad : {"\xff", "a\xed\xa0\x80z", "\xc3", "\xc0\x80"}) {
    const grpc::Status status = Append("a", position, bad, reply);
    EXPECT_EQ(status.error_code(), grpc::StatusCode::INVALID_ARGUMENT)
        << status.error_message();
  }
  // Written as JSON writes a surrogate, it is six plain letters.
  ASSERT_TRUE(Append("a", position, "\\ud800", reply).ok());
  EXPECT_EQ(reply.position(), position + Ids("\\ud800").size());

  const auto begun = std::chrono::steady_clock::now();
  for (const char one : {'a', ' ', 'q', '\n', '1'}) {
    v1::AppendReply long_reply;
    const grpc::Status status =
        Append("a", reply.position(), std::string(1'000'000, one), long_reply);
    EXPECT_EQ(ReasonOf(status), "TOO_MANY_TOKENS") << one;
  }
  EXPECT_LT(std::chrono::steady_clock::now() - begun, std::chrono::seconds(30));
  v1::GetSessionRequest get;
  get.set_session_id("a");
  grpc::ClientContext context;
  v1::Session session;
  ASSERT_TRUE(sessions_->GetSession(&context, get, &session).ok());
  EXPECT_EQ(session.position(), reply.position());
}

INSTANTIATE_TEST_SUITE_P(Kinds,
                         TextTest,
                         ::testing::ValuesIn(Kinds()),
                         [](const auto& info) { return info.param.kind; });

}  // namespace
}  // namespace weir::integration
