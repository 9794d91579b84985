// SPDX-License-Identifier: Apache-2.0
//
// weir-server on a GPU, as a process and through gRPC: scores beside a CPU's, a
// device that fails, memory that is not there.
#include <gmock/gmock.h>
#include <grpcpp/grpcpp.h>
#include <gtest/gtest.h>

#include <chrono>
#include <cmath>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <memory>
#include <numbers>
#include <string>
#include <thread>
#include <vector>

#include "tests/engine/source_path.h"
#include "tests/integration/process.h"
#include "tests/integration/server_fixture.h"
#include "weir/v1/sessions.grpc.pb.h"

namespace weir::gpu {
namespace {

using engine::SourcePath;
using integration::AddressAfter;
using integration::MakeAppend;
using integration::Process;
using integration::ReasonOf;
using integration::Words;
using testing::HasSubstr;

// Beside this program.
std::string Binary(const std::string& name) {
  return std::filesystem::read_symlink("/proc/self/exe").parent_path() / name;
}

Words Serve(const Words& more) {
  Words words = {"--model",
                 "demo=" + SourcePath("models/demo"),
                 "--listen",
                 "127.0.0.1:0",
                 "--metrics-listen",
                 "off"};
  words.insert(words.end(), more.begin(), more.end());
  return words;
}

std::unique_ptr<v1::Sessions::Stub> Connect(const std::string& banner) {
  return v1::Sessions::NewStub(
      grpc::CreateChannel(AddressAfter(banner, "listening on "),
                          grpc::InsecureChannelCredentials()));
}

void Open(v1::Sessions::Stub& sessions, const std::string& id) {
  v1::OpenSessionRequest request;
  request.set_session_id(id);
  request.set_model("demo");
  grpc::ClientContext context;
  v1::OpenSessionReply reply;
  const grpc::Status status = sessions.OpenSession(&context, request, &reply);
  ASSERT_TRUE(status.ok()) << status.error_message();
}

// Scores of a document that is appended in pieces.
std::vector<float> ScoresOf(const Words& options) {
  std::ifstream file(SourcePath("docs/numerics.md"), std::ios::binary);
  const std::string text((std::istreambuf_iterator<char>(file)),
                         std::istreambuf_iterator<char>());
  Process server(Binary("weir-server"), Serve(options));
  const auto sessions = Connect(server.OutTo("listening on "));
  Open(*sessions, "a");
  std::vector<float> scores;
  constexpr size_t kTokens = 4000;
  for (size_t at = 0; at < kTokens;) {
    const size_t count = std::min(at % 3 == 0 ? size_t{700} : 37, kTokens - at);
    v1::AppendRequest request = MakeAppend("a", at, text.substr(at, count));
    request.set_want_scores(true);
    grpc::ClientContext context;
    v1::AppendReply reply;
    const grpc::Status status = sessions->Append(&context, request, &reply);
    EXPECT_TRUE(status.ok()) << status.error_message();
    if (!status.ok()) return {};
    scores.insert(scores.end(), reply.scores().begin(), reply.scores().end());
    at += count;
  }
  return scores;
}

double BitsPerByte(const std::vector<float>& scores) {
  double sum = 0;
  for (size_t i = 1; i < scores.size(); ++i) sum -= scores[i];
  return sum / (std::numbers::ln2 * static_cast<double>(scores.size() - 1));
}

TEST(GpuServerTest, ScoresAreACpusWithinThePublishedBounds) {
  const std::vector<float> cpu = ScoresOf({"--device", "cpu"});
  const std::vector<float> fp32 =
      ScoresOf({"--device", "cuda", "--compute", "fp32", "--slots", "8"});
  const std::vector<float> bf16 =
      ScoresOf({"--device", "cuda", "--slots", "8"});
  ASSERT_EQ(fp32.size(), cpu.size());
  ASSERT_EQ(bf16.size(), cpu.size());
  double worst = 0;
  for (size_t i = 1; i < cpu.size(); ++i) {
    worst = std::max(worst, std::fabs(double{fp32[i]} - cpu[i]));
  }
  EXPECT_LE(worst, 1e-3);
  const double bits = std::fabs(BitsPerByte(bf16) - BitsPerByte(cpu));
  EXPECT_LE(bits, 0.002);
  std::printf("worst score in fp32 %.2g, bf16 %.2g bits a byte\n", worst, bits);
}

TEST(GpuServerTest, ADeviceThatFailsEndsTheServerAndNoReplySaysOk) {
  Process server(Binary("weir-gpu-fault-server"), Serve({}));
  const auto sessions = Connect(server.OutTo("listening on "));
  Open(*sessions, "a");
  const auto append = [&](uint64_t position) {
    grpc::ClientContext context;
    v1::AppendReply reply;
    return sessions->Append(&context, MakeAppend("a", position, "x"), &reply);
  };
  for (uint64_t position = 0; position < 3; ++position) {
    ASSERT_TRUE(append(position).ok());
  }
  const auto begun = std::chrono::steady_clock::now();

  EXPECT_EQ(ReasonOf(append(3)), "DEVICE_FAULT");
  EXPECT_LT(std::chrono::steady_clock::now() - begun, std::chrono::seconds(1));

  EXPECT_FALSE(append(3).ok());
  EXPECT_EQ(server.Wait(), 86);
  EXPECT_LT(std::chrono::steady_clock::now() - begun, std::chrono::seconds(5));
  EXPECT_THAT(server.Rest(), HasSubstr("the device is unfit"));
}

TEST(GpuServerTest, MemoryThatIsNotThereIsSaidWithTheSizesAtStart) {
  Process server(Binary("weir-server"),
                 Serve({"--device", "cuda", "--pool-bytes", "2TiB"}));
  EXPECT_EQ(server.Wait(), 1);
  EXPECT_THAT(server.Rest(),
              testing::AllOf(HasSubstr("no device memory for "),
                             HasSubstr(" slots of "),
                             HasSubstr("are free")));
}

}  // namespace
}  // namespace weir::gpu
