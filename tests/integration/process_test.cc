// SPDX-License-Identifier: Apache-2.0
//
// The real server as a process: its banner, its signals, its exit codes.
#include "tests/integration/process.h"

#include <signal.h>
#include <sys/stat.h>
#include <unistd.h>

#include <chrono>
#include <filesystem>
#include <fstream>
#include <string>
#include <vector>

#include "absl/time/clock.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/integration/server_fixture.h"

namespace weir::integration {
namespace {

using ::testing::HasSubstr;

const std::string kDemo = std::string(WEIR_SOURCE_DIR) + "/models/demo";

Words Serve(const Words& more = {}) {
  Words words = {"--model",
                 kDemo,
                 "--listen",
                 "127.0.0.1:0",
                 "--slots",
                 "4",
                 "--metrics-listen",
                 "127.0.0.1:0",
                 "--threads",
                 "1"};
  words.insert(words.end(), more.begin(), more.end());
  return words;
}

TEST(ProcessTest, TheBannerSaysWhatIsServedAndWhereAndSigtermEndsItWithZero) {
  Process server(WEIR_SERVER_BINARY, Serve({"--admin-listen", "127.0.0.1:0"}));
  const std::string banner = server.OutTo("listening on ");
  EXPECT_THAT(banner, HasSubstr("weir-server "));
  EXPECT_THAT(banner, HasSubstr("model demo: gated_deltanet, 7451456 param"));
  EXPECT_THAT(banner,
              HasSubstr("state 599040 bytes a session, 4 sessions fit"));
  EXPECT_THAT(AddressAfter(banner, "metrics on "), HasSubstr("127.0.0.1:"));
  EXPECT_THAT(AddressAfter(banner, "admin on "), HasSubstr("127.0.0.1:"));
  const auto models = v1::Models::NewStub(
      grpc::CreateChannel(AddressAfter(banner, "listening on "),
                          grpc::InsecureChannelCredentials()));
  grpc::ClientContext context;
  context.set_wait_for_ready(true);
  v1::ListModelsReply reply;
  const grpc::Status status =
      models->ListModels(&context, v1::ListModelsRequest(), &reply);
  EXPECT_TRUE(status.ok()) << status.error_message();
  EXPECT_EQ(reply.models(0).name(), "demo");

  server.Signal(SIGTERM);

  EXPECT_EQ(server.Wait(), 0);
  EXPECT_THAT(server.Rest(), HasSubstr("stopped"));
}

TEST(ProcessTest, SigintEndsItToo) {
  Process server(WEIR_SERVER_BINARY, Serve());
  server.OutTo("listening on ");

  server.Signal(SIGINT);

  EXPECT_EQ(server.Wait(), 0);
}

TEST(ProcessTest, ASecondSignalDoesNotWaitForTheDrain) {
  Process server(
      WEIR_SERVER_BINARY,
      Serve({"--drain-seconds", "600", "--admin-listen", "127.0.0.1:0"}));
  const std::string banner = server.OutTo("listening on ");
  const std::string address = AddressAfter(banner, "listening on ");
  const auto channel =
      grpc::CreateChannel(address, grpc::InsecureChannelCredentials());
  const auto sessions = v1::Sessions::NewStub(channel);
  v1::OpenSessionRequest open;
  open.set_session_id("a");
  open.set_model("demo");
  grpc::ClientContext opening;
  v1::OpenSessionReply opened;
  ASSERT_TRUE(sessions->OpenSession(&opening, open, &opened).ok());
  // Seconds of accepted work on a fast machine, and on a slow one, under a
  // sanitizer, less than the five minutes beyond which an append is refused.
  constexpr uint64_t kAppends = 2;
  grpc::ClientContext streaming;
  const auto stream = sessions->Stream(&streaming);
  v1::GetSessionRequest get;
  get.set_session_id("a");
  v1::Session session;
  for (uint64_t n = 0; n < kAppends; ++n) {
    v1::StreamRequest request;
    *request.mutable_append() =
        MakeAppend("a", n * 65'536, std::string(65'536, 'x'));
    // The stream is read on whatever its answers will be.
    request.mutable_append()->set_want_scores(false);
    ASSERT_TRUE(stream->Write(request));
    // Before the next: what was refused would leave the queue empty.
    const uint64_t accepted = (n + 1) * 65'536;
    for (int k = 0; k < 10'000 && session.position() < accepted; ++k) {
      grpc::ClientContext getting;
      ASSERT_TRUE(sessions->GetSession(&getting, get, &session).ok());
      absl::SleepFor(absl::Milliseconds(1));
    }
    ASSERT_EQ(session.position(), accepted);
  }
  server.Signal(SIGTERM);
  EXPECT_THAT(server.Err("draining"), HasSubstr("draining"));
  const auto admin = v1::Admin::NewStub(grpc::CreateChannel(
      AddressAfter(banner, "admin on "), grpc::InsecureChannelCredentials()));
  grpc::ClientContext asking;
  v1::GetServerInfoReply info;
  ASSERT_TRUE(
      admin->GetServerInfo(&asking, v1::GetServerInfoRequest(), &info).ok());
  EXPECT_TRUE(info.draining());
  const auto begun = std::chrono::steady_clock::now();

  server.Signal(SIGTERM);

  EXPECT_EQ(server.Wait(), 1);
  EXPECT_LT(std::chrono::steady_clock::now() - begun, std::chrono::seconds(5));
}

TEST(ProcessTest, ADeviceThatFailsEndsItWithItsOwnCodeAndNoReplySaysOkAfter) {
  Process server(WEIR_FAULT_SERVER_BINARY, Serve());
  const std::string banner = server.OutTo("listening on ");
  const auto channel =
      grpc::CreateChannel(AddressAfter(banner, "listening on "),
                          grpc::InsecureChannelCredentials());
  const auto sessions = v1::Sessions::NewStub(channel);
  v1::OpenSessionRequest open;
  open.set_session_id("a");
  open.set_model("demo");
  grpc::ClientContext opening;
  v1::OpenSessionReply opened;
  ASSERT_TRUE(sessions->OpenSession(&opening, open, &opened).ok());
  const auto append = [&](uint64_t position) {
    grpc::ClientContext context;
    v1::AppendReply reply;
    return sessions->Append(&context, MakeAppend("a", position, "x"), &reply);
  };
  ASSERT_TRUE(append(0).ok());
  ASSERT_TRUE(append(1).ok());
  const auto begun = std::chrono::steady_clock::now();

  EXPECT_EQ(ReasonOf(append(2)), "DEVICE_FAULT");

  EXPECT_FALSE(append(2).ok());
  EXPECT_EQ(server.Wait(), 86);
  EXPECT_LT(std::chrono::steady_clock::now() - begun, std::chrono::seconds(5));
  EXPECT_THAT(server.Rest(), HasSubstr("the device is unfit"));
}

struct WrongStart {
  Words words;
  int code;
  std::string part;
};

TEST(ProcessTest, AStartThatFailsSaysWhyInOneLine) {
  std::string folder = ::testing::TempDir() + "weir-process-XXXXXX";
  ASSERT_NE(mkdtemp(folder.data()), nullptr);
  std::ofstream(folder + "/weir.json") << "{}";
  chmod((folder + "/weir.json").c_str(), 0666);
  Process running(WEIR_SERVER_BINARY, Serve());
  const std::string taken =
      AddressAfter(running.OutTo("listening on "), "listening on ");
  // What only its values show is not looked at: all but the end of the file.
  std::filesystem::create_directory(folder + "/cut");
  for (const char* name : {"config.json", "model.safetensors"}) {
    std::filesystem::copy(kDemo + "/" + name, folder + "/cut");
  }
  const std::string weights = folder + "/cut/model.safetensors";
  std::filesystem::resize_file(weights,
                               std::filesystem::file_size(weights) - 4);
  const WrongStart cases[] = {
      {{}, 2, "--model"},
      {{"--model", kDemo, "--threads", "0"}, 2, "--threads"},
      {{"--model", kDemo, "--frobnicate"}, 2, "--frobnicate"},
      {{"--model", kDemo, "--config", folder + "/weir.json"}, 2, "--config"},
      {{"--model", folder + "/none", "--check-config"}, 2, "--model"},
      {{"--model", folder + "/cut", "--check-config"}, 2, "OFFSETS"},
      {{"--model", folder + "/none", "--metrics-listen", "off"}, 1, "none"},
      {{"--model", folder, "--metrics-listen", "off"}, 1, "config.json"},
      {{"--model", kDemo, "--slots", "1", "--metrics-listen", taken},
       1,
       "--metrics-listen"},
      {{"--model",
        kDemo,
        "--slots",
        "1",
        "--metrics-listen",
        "off",
        "--listen",
        taken},
       1,
       taken},
  };
  for (const WrongStart& test : cases) {
    SCOPED_TRACE(::testing::PrintToString(test.words));
    Process server(WEIR_SERVER_BINARY, test.words);
    EXPECT_EQ(server.Wait(), test.code);
    const std::string text = server.Rest();
    EXPECT_THAT(text, HasSubstr(test.part));
    EXPECT_EQ(std::count(text.begin(), text.end(), '\n'), 1) << text;
  }
  std::filesystem::remove_all(folder);
}

TEST(ProcessTest, CheckConfigPrintsTheConfigurationAndLoadsNothing) {
  Process server(WEIR_SERVER_BINARY,
                 {"--model", "other=" + kDemo, "--check-config"});

  EXPECT_EQ(server.Wait(), 0);
  const std::string text = server.Rest();
  EXPECT_THAT(text, HasSubstr("model = other=" + kDemo + "  (flag)"));
  EXPECT_THAT(text, HasSubstr("listen = 127.0.0.1:7070  (default)"));
  EXPECT_THAT(text, HasSubstr("model other: gated_deltanet, "));
}

TEST(ProcessTest, ABuildWithoutAGpuSaysSo) {
  Process check(WEIR_SERVER_BINARY,
                Serve({"--device", "cuda", "--check-config"}));
  const int code = check.Wait();
  // A build with it takes the option wherever it is.
  if (code == 0) return;
  EXPECT_EQ(code, 2);
  EXPECT_THAT(check.Rest(), HasSubstr("--device: this build has no GPU"));

  Process server(WEIR_SERVER_BINARY, Serve({"--device", "cuda"}));
  EXPECT_EQ(server.Wait(), 1);
  EXPECT_THAT(server.Rest(), HasSubstr("serve with --device cpu"));
}

}  // namespace
}  // namespace weir::integration
