// SPDX-License-Identifier: Apache-2.0
//
// weir-server on model folders that must not be served: it ends with one line
// that says why, and never by a signal.
#include <signal.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <filesystem>
#include <fstream>
#include <limits>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "client/http_get.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/engine/model_files.h"
#include "tests/integration/process.h"
#include "tests/integration/server_fixture.h"

namespace weir::integration {
namespace {

using engine::ModelCopy;
using engine::SafetensorsBytes;
using engine::TempFolder;
using engine::WriteFileBytes;
using ::testing::HasSubstr;
using ::testing::StartsWith;

namespace fs = std::filesystem;

constexpr const char* kSmall = "tests/golden/fla_gated_deltanet";

Words Serve(const std::string& model, const Words& more = {}) {
  Words words = {"--model",
                 model,
                 "--listen",
                 "127.0.0.1:0",
                 "--metrics-listen",
                 "off",
                 "--slots",
                 "2"};
  words.insert(words.end(), more.begin(), more.end());
  return words;
}

// What it says on its one line; it must end with `code`.
std::string RefusalOf(const Words& words, int code) {
  Process server(WEIR_SERVER_BINARY, words);
  EXPECT_EQ(server.Wait(), code);
  const std::string text = server.Rest();
  EXPECT_EQ(std::count(text.begin(), text.end(), '\n'), 1) << text;
  EXPECT_THAT(text, StartsWith("weir-server: "));
  return text;
}

void FillHead(ModelCopy& model, float value) {
  const auto& shape = model.weights.tensors.at("lm_head.weight").shape;
  std::vector<float> values(static_cast<size_t>(shape[0] * shape[1]), value);
  model.weights.Add("lm_head.weight", std::vector<int64_t>(shape), values);
  model.Write();
}

TEST(ModelStartTest, WeightsThatOverflowAreRefusedByASelfTest) {
  ModelCopy model(kSmall);
  FillHead(model, 3e38f);

  EXPECT_THAT(RefusalOf(Serve(model.path()), 1),
              HasSubstr("SELF_TEST: " + model.path() + ": "));
  Process check(WEIR_SERVER_BINARY, Serve(model.path(), {"--check-config"}));
  EXPECT_EQ(check.Wait(), 0) << "it reads headers only";
}

TEST(ModelStartTest, WeightsThatAreNotFiniteAreRefusedWhetherAllowedOrNot) {
  ModelCopy model(kSmall);
  FillHead(model, std::numeric_limits<float>::quiet_NaN());

  EXPECT_THAT(RefusalOf(Serve(model.path()), 1),
              HasSubstr("NON_FINITE: " + model.path() +
                        "/model.safetensors: tensor \"lm_head.weight\""));
  EXPECT_THAT(RefusalOf(Serve(model.path(), {"--allow-nonfinite"}), 1),
              HasSubstr("SELF_TEST: "));
}

TEST(ModelStartTest, TheSelfTestLeavesNothingBehind) {
  Process server(WEIR_SERVER_BINARY,
                 {"--model",
                  "small=" + std::string(WEIR_SOURCE_DIR) + "/" + kSmall,
                  "--listen",
                  "127.0.0.1:0",
                  "--metrics-listen",
                  "127.0.0.1:0",
                  "--slots",
                  "2"});
  const std::string banner = server.OutTo("listening on ");
  const auto page = client::HttpGet(
      AddressAfter(banner, "metrics on "), "/metrics", absl::Seconds(30));
  ASSERT_TRUE(page.ok()) << page.status();
  for (const char* line : {"weir_batch_tokens_count 0",
                           "weir_batch_size_count 0",
                           "weir_session_length_tokens_count 0",
                           "weir_queue_time_seconds_count 0"}) {
    EXPECT_NE(page->find(absl::StrCat("\n", line, "\n")), std::string::npos)
        << line;
  }
  const auto sessions = v1::Sessions::NewStub(
      grpc::CreateChannel(AddressAfter(banner, "listening on "),
                          grpc::InsecureChannelCredentials()));
  grpc::ClientContext context;
  v1::ListSessionsReply reply;
  ASSERT_TRUE(
      sessions->ListSessions(&context, v1::ListSessionsRequest(), &reply).ok());
  EXPECT_EQ(reply.sessions_size(), 0);
  for (const char* id : {"a", "b"}) {  // all slots are free
    v1::OpenSessionRequest open;
    open.set_session_id(id);
    open.set_model("small");
    grpc::ClientContext opening;
    v1::OpenSessionReply opened;
    const grpc::Status status = sessions->OpenSession(&opening, open, &opened);
    EXPECT_TRUE(status.ok()) << status.error_message();
  }
}

// A model of 1 GiB of zeros, none of which lies on the disk.
void WriteSparseModel(const ModelCopy& model, int64_t vocabulary) {
  const int64_t hidden = 64;
  const int64_t table = vocabulary * hidden * 4;
  nlohmann::json header = nlohmann::json::object();
  std::string data;
  const auto place = [&](const std::string& name,
                         const std::vector<int64_t>& shape,
                         int64_t begin,
                         int64_t end) {
    header[name] = {
        {"dtype", "F32"}, {"shape", shape}, {"data_offsets", {begin, end}}};
  };
  for (const auto& [name, tensor] : model.weights.tensors) {
    if (name == "lm_head.weight" || name == "model.embeddings.weight") continue;
    const auto begin = static_cast<int64_t>(data.size());
    data += tensor.bytes;
    place(name, tensor.shape, begin, static_cast<int64_t>(data.size()));
  }
  const auto small = static_cast<int64_t>(data.size());
  place("model.embeddings.weight", {vocabulary, hidden}, small, small + table);
  place(
      "lm_head.weight", {vocabulary, hidden}, small + table, small + 2 * table);
  const std::string file = SafetensorsBytes(header.dump(), data);
  WriteFileBytes(model.File("model.safetensors"), file);
  fs::resize_file(model.File("model.safetensors"),
                  file.size() + static_cast<size_t>(2 * table));
}

// How much a process has read so far; 0 if it is gone.
int64_t BytesRead(pid_t process) {
  std::ifstream file(absl::StrCat("/proc/", process, "/io"));
  std::string key;
  int64_t bytes = 0;
  file >> key >> bytes;
  return key == "rchar:" ? bytes : 0;
}

// The program is stopped in the middle of the weights, which takes it a good
// part of a second; where the test itself is held up for longer, again.
TEST(ModelStartTest, AFileCutWhileItIsLoadedEndsTheStart) {
  constexpr int64_t kSome = int64_t{200} << 20;
  ModelCopy model(kSmall);
  model.config["vocab_size"] = 1 << 21;
  model.Write();
  bool was_cut = false;
  for (int attempt = 0; attempt < 5 && !was_cut; ++attempt) {
    WriteSparseModel(model, 1 << 21);
    Process server(WEIR_SERVER_BINARY, Serve(model.path()));
    const auto end =
        std::chrono::steady_clock::now() + std::chrono::seconds(60);
    while (BytesRead(server.pid()) < kSome) {
      ASSERT_LT(std::chrono::steady_clock::now(), end);
    }
    fs::resize_file(model.File("model.safetensors"), 1 << 20);

    const std::string text = server.RestOfErr();
    ASSERT_NE(server.Wait(), -1) << "a signal ended it";
    if (server.Wait() == 0) continue;
    was_cut = true;
    EXPECT_EQ(server.Wait(), 1);
    EXPECT_THAT(text,
                StartsWith("weir-server: TRUNCATED: " + model.path() +
                           "/model.safetensors: ends at byte "));
    EXPECT_EQ(std::count(text.begin(), text.end(), '\n'), 1) << text;
  }
  EXPECT_TRUE(was_cut);
}

}  // namespace
}  // namespace weir::integration
