// SPDX-License-Identifier: Apache-2.0
//
// Many clients at once, each with a connection and a session of its own; prints
// a flat JSON object.
//
//   weir-clients --server HOST:PORT --sessions N --seconds S [--warm-seconds W]
//       each session generates as fast as it is served: tokens a second of all,
//       and the time between two messages of one session
//   weir-clients ... --appends-per-second R [--append-tokens T]
//       appends of T tokens, R of them due each second, to sessions in turn,
//       and to one session one after another: their time from when each was due
#include <CLI/CLI.hpp>
#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstdio>
#include <memory>
#include <mutex>
#include <nlohmann/json.hpp>
#include <random>
#include <string>
#include <thread>
#include <vector>

#include "grpcpp/grpcpp.h"
#include "weir/v1/models.grpc.pb.h"
#include "weir/v1/sessions.grpc.pb.h"

namespace weir::bench {
namespace {

using SteadyClock = std::chrono::steady_clock;

struct Options {
  std::string server = "127.0.0.1:7070";
  int sessions = 256;
  double seconds = 5;
  double warm_seconds = 2;
  double appends_per_second = 0;
  int append_tokens = 16;
};

double Seconds(SteadyClock::duration duration) {
  return std::chrono::duration<double>(duration).count();
}

// What all clients share.
struct Shared {
  Options options;
  std::string model;
  SteadyClock::time_point begin;  // of what is counted
  SteadyClock::time_point end;
  std::atomic<int> open = 0;
  std::atomic<uint64_t> tokens = 0;
  std::atomic<int> failures = 0;
  std::mutex mutex;
  std::vector<double> times;  // s

  void Add(const std::vector<double>& more) {
    const std::lock_guard lock(mutex);
    times.insert(times.end(), more.begin(), more.end());
  }
};

class Client {
 public:
  Client(Shared* shared, int number) : shared_(*shared), random_(number) {
    grpc::ChannelArguments arguments;
    // Channels with the same arguments share a connection.
    arguments.SetInt("weir.client", number);
    channel_ = grpc::CreateCustomChannel(
        shared->options.server, grpc::InsecureChannelCredentials(), arguments);
    stub_ = v1::Sessions::NewStub(channel_);
  }

  bool Open() {
    v1::OpenSessionRequest request;
    request.set_model(shared_.model);
    v1::OpenSessionReply reply;
    grpc::ClientContext context;
    context.set_wait_for_ready(true);
    const grpc::Status status = stub_->OpenSession(&context, request, &reply);
    session_id_ = reply.session_id();
    return Count(status) && Append(16);
  }

  bool Append(int tokens) {
    v1::AppendRequest request;
    request.set_session_id(session_id_);
    request.set_expected_position(position_);
    for (int i = 0; i < tokens; ++i) request.add_tokens(random_() % 256);
    v1::AppendReply reply;
    grpc::ClientContext context;
    const grpc::Status status = stub_->Append(&context, request, &reply);
    position_ = reply.position();
    return Count(status);
  }

  void Close() {
    v1::CloseSessionRequest request;
    request.set_session_id(session_id_);
    v1::CloseSessionReply reply;
    grpc::ClientContext context;
    Count(stub_->CloseSession(&context, request, &reply));
  }

  void Generate() {
    v1::GenerateRequest request;
    request.set_session_id(session_id_);
    request.set_max_tokens(60'000);
    grpc::ClientContext context;
    auto stream = stub_->Generate(&context, request);
    std::vector<double> gaps;
    uint64_t tokens = 0;
    SteadyClock::time_point last = {};
    v1::GenerateReply reply;
    while (stream->Read(&reply)) {
      const SteadyClock::time_point now = SteadyClock::now();
      if (now >= shared_.end) break;
      if (now >= shared_.begin) {
        tokens += static_cast<uint64_t>(reply.tokens_size());
        if (last >= shared_.begin) gaps.push_back(Seconds(now - last));
      }
      last = now;
    }
    context.TryCancel();
    const grpc::Status status = stream->Finish();
    if (status.error_code() != grpc::StatusCode::CANCELLED) Count(status);
    shared_.tokens += tokens;
    shared_.Add(gaps);
  }

 private:
  bool Count(const grpc::Status& status) {
    if (status.ok()) return true;
    if (shared_.failures++ == 0) {
      std::fprintf(stderr, "%s\n", status.error_message().c_str());
    }
    return false;
  }

  Shared& shared_;
  std::mt19937 random_;
  std::shared_ptr<grpc::Channel> channel_;
  std::unique_ptr<v1::Sessions::Stub> stub_;
  std::string session_id_;
  uint64_t position_ = 0;
};

double At(std::vector<double>& sorted, double share) {
  if (sorted.empty()) return 0;
  const auto index =
      static_cast<size_t>(share * static_cast<double>(sorted.size() - 1));
  return sorted[index];
}

void Print(Shared& shared, const std::string& what) {
  std::sort(shared.times.begin(), shared.times.end());
  nlohmann::ordered_json json;
  json["clients"] = shared.options.sessions;
  json["failures"] = shared.failures.load();
  json[what + "_count"] = shared.times.size();
  json[what + "_p50_ms"] = 1e3 * At(shared.times, 0.5);
  json[what + "_p95_ms"] = 1e3 * At(shared.times, 0.95);
  json[what + "_p99_ms"] = 1e3 * At(shared.times, 0.99);
  if (shared.tokens > 0) {
    json["tokens_per_second"] =
        static_cast<double>(shared.tokens) / Seconds(shared.end - shared.begin);
  }
  std::printf("%s\n", json.dump(1).c_str());
}

// Client i's k-th append is due at (i + k clients) / rate.
void AppendInTurn(Shared& shared, int number, Client& client) {
  const double rate = shared.options.appends_per_second;
  std::vector<double> times;
  for (int64_t k = number;; k += shared.options.sessions) {
    const SteadyClock::time_point due =
        shared.begin +
        std::chrono::duration_cast<SteadyClock::duration>(
            std::chrono::duration<double>(static_cast<double>(k) / rate));
    if (due >= shared.end) break;
    std::this_thread::sleep_until(due);
    if (!client.Append(shared.options.append_tokens)) break;
    times.push_back(Seconds(SteadyClock::now() - due));
  }
  shared.Add(times);
}

// One client: opens its session, waits for all others, does its part.
void RunClient(Shared& shared, int number) {
  Client client(&shared, number);
  const bool opened = client.Open();
  ++shared.open;
  while (shared.open < shared.options.sessions) {
    std::this_thread::sleep_for(std::chrono::milliseconds(1));
  }
  if (!opened) return;
  if (shared.options.appends_per_second > 0) {
    AppendInTurn(shared, number, client);
  } else {
    client.Generate();
  }
  client.Close();
}

int Run(int argc, char** argv) {
  Shared shared;
  Options& options = shared.options;
  CLI::App app{"weir-clients: many clients at once"};
  app.add_option("--server", options.server);
  app.add_option("--sessions", options.sessions);
  app.add_option("--seconds", options.seconds);
  app.add_option("--warm-seconds", options.warm_seconds);
  app.add_option("--appends-per-second", options.appends_per_second);
  app.add_option("--append-tokens", options.append_tokens);
  CLI11_PARSE(app, argc, argv);

  auto models = v1::Models::NewStub(
      grpc::CreateChannel(options.server, grpc::InsecureChannelCredentials()));
  v1::ListModelsReply listed;
  grpc::ClientContext context;
  context.set_wait_for_ready(true);
  const grpc::Status status = models->ListModels(&context, {}, &listed);
  if (!status.ok() || listed.models().empty()) {
    std::fprintf(stderr, "no model: %s\n", status.error_message().c_str());
    return 1;
  }
  shared.model = listed.models(0).name();
  const auto seconds = [](double count) {
    return std::chrono::duration_cast<SteadyClock::duration>(
        std::chrono::duration<double>(count));
  };
  shared.begin = SteadyClock::now() + seconds(options.warm_seconds);
  shared.end = shared.begin + seconds(options.seconds);
  std::vector<std::thread> threads;
  threads.reserve(static_cast<size_t>(options.sessions));
  for (int i = 0; i < options.sessions; ++i) {
    threads.emplace_back([&shared, i] { RunClient(shared, i); });
  }
  for (std::thread& thread : threads) thread.join();
  Print(shared, options.appends_per_second > 0 ? "append" : "inter_token");
  return shared.failures == 0 ? 0 : 1;
}

}  // namespace
}  // namespace weir::bench

// NOLINTNEXTLINE(bugprone-exception-escape): what is thrown ends it, as it may.
int main(int argc, char** argv) { return weir::bench::Run(argc, argv); }
