// SPDX-License-Identifier: Apache-2.0
//
// Streams a document of random bytes into one session over gRPC and prints a
// flat JSON object: tokens a second, milliseconds per 1,000 tokens in windows
// of 100,000, and the server's resident memory beside them.
//
//   weir-load --server HOST:PORT --tokens N [--append-tokens 256]
//             [--server-pid PID] [--no-scores]
#include <CLI/CLI.hpp>
#include <chrono>
#include <cstdio>
#include <fstream>
#include <nlohmann/json.hpp>
#include <random>
#include <string>
#include <vector>

#include "grpcpp/grpcpp.h"
#include "weir/v1/models.grpc.pb.h"
#include "weir/v1/sessions.grpc.pb.h"

namespace weir::bench {
namespace {

using SteadyClock = std::chrono::steady_clock;

// Items that are on their way at a time: enough to hide a round trip.
constexpr int kWindow = 4;
constexpr uint64_t kWindowTokens = 100'000;

struct Options {
  std::string server = "127.0.0.1:7070";
  uint64_t tokens = 100'000;
  uint32_t append_tokens = 256;
  int server_pid = 0;
  bool no_scores = false;
};

double Seconds(SteadyClock::time_point from, SteadyClock::time_point to) {
  return std::chrono::duration<double>(to - from).count();
}

// Resident bytes of a process; 0 if it cannot be read.
uint64_t ResidentBytes(int pid) {
  if (pid == 0) return 0;
  std::ifstream status("/proc/" + std::to_string(pid) + "/status");
  for (std::string word; status >> word;) {
    if (word != "VmRSS:") continue;
    uint64_t kib = 0;
    status >> kib;
    return kib * 1024;
  }
  return 0;
}

// Opens a session of the server's first model; its id.
std::string Open(v1::Sessions::Stub& sessions, v1::Models::Stub& models) {
  v1::ListModelsReply listed;
  grpc::ClientContext list;
  list.set_wait_for_ready(true);
  grpc::Status status = models.ListModels(&list, {}, &listed);
  if (!status.ok() || listed.models().empty()) return "";
  v1::OpenSessionRequest request;
  request.set_model(listed.models(0).name());
  v1::OpenSessionReply reply;
  grpc::ClientContext open;
  status = sessions.OpenSession(&open, request, &reply);
  return status.ok() ? reply.session_id() : "";
}

// Feeds tokens and gathers what is measured on the way.
class Load {
 public:
  Load(const Options& options, std::string session_id)
      : options_(options), session_id_(std::move(session_id)) {}

  grpc::Status Run(v1::Sessions::Stub& stub) {
    grpc::ClientContext context;
    auto stream = stub.Stream(&context);
    start_ = early_start_ = window_start_ = SteadyClock::now();
    int on_the_way = 0;
    while (applied_ < options_.tokens) {
      while (on_the_way < kWindow && sent_ < options_.tokens) {
        if (!stream->Write(NextItem())) return stream->Finish();
        ++on_the_way;
      }
      v1::StreamReply reply;
      if (!stream->Read(&reply)) return stream->Finish();
      if (reply.has_error()) {
        return grpc::Status(grpc::StatusCode::INTERNAL,
                            reply.error().message());
      }
      if (!reply.has_append()) continue;
      --on_the_way;
      applied_ = reply.append().position();
      EndEarly();
      EndWindows();
    }
    stop_ = SteadyClock::now();
    stream->WritesDone();
    return stream->Finish();
  }

  nlohmann::json Result() const {
    nlohmann::json result;
    result["load_tokens"] = applied_;
    result["load_tokens_per_second"] =
        static_cast<double>(applied_) / Seconds(start_, stop_);
    result["load_early_positions"] = early_positions_;
    result["load_early_ms_per_1000_tokens"] = early_ms_;
    result["load_first_position"] = early_positions_.front();
    result["load_first_resident_bytes"] = first_resident_;
    result["load_window_tokens"] = kWindowTokens;
    result["load_window_ms_per_1000_tokens"] = window_ms_;
    result["load_window_resident_bytes"] = window_resident_;
    return result;
  }

 private:
  v1::StreamRequest NextItem() {
    v1::StreamRequest item;
    item.set_item_id(sent_);
    v1::AppendRequest& append = *item.mutable_append();
    append.set_session_id(session_id_);
    append.set_expected_position(sent_);
    append.set_want_scores(!options_.no_scores);
    const uint64_t count =
        std::min<uint64_t>(options_.append_tokens, options_.tokens - sent_);
    for (uint64_t i = 0; i < count; ++i) {
      append.add_tokens(static_cast<uint32_t>(random_() % 256));
    }
    sent_ += count;
    return item;
  }

  // The first windows are short, and each twice as long as the one before.
  void EndEarly() {
    if (applied_ < next_early_ || next_early_ > kWindowTokens) return;
    const auto now = SteadyClock::now();
    if (early_positions_.empty()) {
      first_resident_ = ResidentBytes(options_.server_pid);
    }
    early_positions_.push_back(applied_);
    early_ms_.push_back(Seconds(early_start_, now) * 1e6 /
                        static_cast<double>(applied_ - early_from_));
    early_from_ = applied_;
    early_start_ = now;
    next_early_ *= 2;
  }

  void EndWindows() {
    if (applied_ < (window_ms_.size() + 1) * kWindowTokens) return;
    const auto now = SteadyClock::now();
    const uint64_t tokens = applied_ - window_from_;
    window_ms_.push_back(Seconds(window_start_, now) * 1e6 /
                         static_cast<double>(tokens));
    window_resident_.push_back(ResidentBytes(options_.server_pid));
    window_from_ = applied_;
    window_start_ = now;
  }

  const Options options_;
  const std::string session_id_;
  std::mt19937_64 random_{1};
  uint64_t sent_ = 0;
  uint64_t applied_ = 0;
  uint64_t window_from_ = 0;
  uint64_t early_from_ = 0;
  uint64_t next_early_ = 1000;
  SteadyClock::time_point start_, stop_, early_start_, window_start_;
  std::vector<uint64_t> early_positions_;
  uint64_t first_resident_ = 0;
  std::vector<double> early_ms_;
  std::vector<double> window_ms_;
  std::vector<uint64_t> window_resident_;
};

int Main(int argc, char** argv) {
  Options options;
  CLI::App app{"Streams random bytes into one session and measures."};
  app.add_option("--server", options.server, "HOST:PORT");
  app.add_option("--tokens", options.tokens, "tokens to stream");
  app.add_option("--append-tokens", options.append_tokens, "tokens an append")
      ->check(CLI::Range(1u, 65'536u));
  app.add_option("--server-pid",
                 options.server_pid,
                 "process whose resident memory is read");
  app.add_flag("--no-scores", options.no_scores, "do not ask for scores");
  CLI11_PARSE(app, argc, argv);

  auto channel =
      grpc::CreateChannel(options.server, grpc::InsecureChannelCredentials());
  auto sessions = v1::Sessions::NewStub(channel);
  auto models = v1::Models::NewStub(channel);
  const std::string session_id = Open(*sessions, *models);
  if (session_id.empty()) {
    std::fprintf(
        stderr, "weir-load: no session from %s\n", options.server.c_str());
    return 1;
  }
  Load load(options, session_id);
  const grpc::Status status = load.Run(*sessions);
  if (!status.ok()) {
    std::fprintf(stderr, "weir-load: %s\n", status.error_message().c_str());
    return 1;
  }
  std::printf("%s\n", load.Result().dump().c_str());
  return 0;
}

}  // namespace
}  // namespace weir::bench

// NOLINTNEXTLINE(bugprone-exception-escape): a measurement just ends.
int main(int argc, char** argv) { return weir::bench::Main(argc, argv); }
