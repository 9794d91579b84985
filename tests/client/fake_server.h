// SPDX-License-Identifier: Apache-2.0
//
// A server of weir.v1 with the contract and none of the mathematics: logs by
// position, scores and generated tokens that are functions of the position.
// A test can make the n-th call fail before or after it was applied, or hang.
//
// Threads: every method from any thread; mutex_ guards what calls share.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "google/rpc/status.pb.h"
#include "grpcpp/server.h"
#include "grpcpp/server_context.h"
#include "weir/v1/models.grpc.pb.h"
#include "weir/v1/sessions.grpc.pb.h"

namespace weir::client {

// What happens to a call instead of its answer.
struct Fault {
  // kSlow: answered only after `slow`; in a Stream nothing is read until then,
  // and progress is sent now and then if it was asked for.
  enum class When { kNever, kBefore, kAfter, kHang, kSlow };
  When when = When::kNever;
  absl::Duration slow = absl::ZeroDuration();
  grpc::Status status = grpc::Status(grpc::StatusCode::UNAVAILABLE, "cut");
};
// Asked for each call: its name ("Append" for each append, in a Stream too,
// "Generate" for each token) and which one of that name it is, from 1.
using FaultPlan = std::function<Fault(std::string_view call, int nth)>;

// A refusal as the server makes it; a negative delay: no RetryInfo.
google::rpc::Status Refusal(grpc::StatusCode code,
                            std::string_view reason,
                            std::map<std::string, std::string> metadata = {},
                            absl::Duration retry_after = -absl::Seconds(1));
grpc::Status ToGrpc(const google::rpc::Status& status);

class FakeServer final : public v1::Sessions::Service,
                         public v1::Models::Service {
 public:
  FakeServer();
  ~FakeServer() override;

  std::string target() const { return "127.0.0.1:" + std::to_string(port_); }
  void set_plan(FaultPlan plan);
  void set_model(v1::Model model);

  std::vector<uint32_t> log(const std::string& session_id);
  bool is_open(const std::string& session_id);
  // Calls of a name so far.
  int calls(std::string_view call);
  // Appended tokens that were in the log already.
  uint64_t duplicate_tokens();
  int streams();
  // Drops the last tokens of a session, as a crash of the server might.
  void Truncate(const std::string& session_id, size_t length);

  // Quarantines a session that has accepted a token more than it can apply.
  void Quarantine(const std::string& session_id);
  // From now on so many tokens wait for their steps, and one fewer each time
  // the session is read.
  void Delay(const std::string& session_id, uint64_t tokens);

  // The score and the generated token at a position.
  static float ScoreAt(uint64_t position, uint32_t token);
  static uint32_t GeneratedAt(uint64_t position);

 private:
  struct Generation {
    uint64_t begin = 0;
    uint64_t end = 0;
  };
  struct Log {
    v1::OpenSessionRequest opened;
    std::vector<uint32_t> tokens;
    std::vector<float> scores;
    uint64_t waiting = 0;  // accepted, not applied
    bool quarantined = false;
    double sum_log_prob = 0;
    uint64_t scored_tokens = 0;
    std::map<std::string, Generation> generations;
  };

  grpc::Status OpenSession(grpc::ServerContext*,
                           const v1::OpenSessionRequest*,
                           v1::OpenSessionReply*) override;
  grpc::Status GetSession(grpc::ServerContext*,
                          const v1::GetSessionRequest*,
                          v1::Session*) override;
  grpc::Status ListSessions(grpc::ServerContext*,
                            const v1::ListSessionsRequest*,
                            v1::ListSessionsReply*) override;
  grpc::Status CloseSession(grpc::ServerContext*,
                            const v1::CloseSessionRequest*,
                            v1::CloseSessionReply*) override;
  grpc::Status Append(grpc::ServerContext*,
                      const v1::AppendRequest*,
                      v1::AppendReply*) override;
  grpc::Status Stream(
      grpc::ServerContext*,
      grpc::ServerReaderWriter<v1::StreamReply, v1::StreamRequest>*) override;
  grpc::Status Generate(grpc::ServerContext*,
                        const v1::GenerateRequest*,
                        grpc::ServerWriter<v1::GenerateReply>*) override;
  grpc::Status Fork(grpc::ServerContext*,
                    const v1::ForkRequest*,
                    v1::ForkReply*) override;
  grpc::Status GetModel(grpc::ServerContext*,
                        const v1::GetModelRequest*,
                        v1::Model*) override;
  grpc::Status ListModels(grpc::ServerContext*,
                          const v1::ListModelsRequest*,
                          v1::ListModelsReply*) override;

  // Runs `apply` under the plan; `context` ends a hang.
  grpc::Status Planned(std::string_view call,
                       grpc::ServerContext* context,
                       const std::function<google::rpc::Status()>& apply);
  Fault NextFault(std::string_view call);
  void Hang(
      grpc::ServerContext* context,
      absl::Duration most = absl::InfiniteDuration(),
      const std::function<void()>& each = [] {});
  google::rpc::Status Apply(const v1::AppendRequest& request,
                            v1::AppendReply* reply)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  google::rpc::Status Begin(const v1::GenerateRequest& request,
                            uint64_t* position,
                            Generation* generation);
  void Describe(const std::string& id, const Log& log, v1::Session* session)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);

  absl::Mutex mutex_;
  FaultPlan plan_ ABSL_GUARDED_BY(mutex_);
  v1::Model model_ ABSL_GUARDED_BY(mutex_);
  std::map<std::string, Log> logs_ ABSL_GUARDED_BY(mutex_);
  std::map<std::string, std::string> forks_ ABSL_GUARDED_BY(mutex_);
  std::map<std::string, int, std::less<>> calls_ ABSL_GUARDED_BY(mutex_);
  uint64_t duplicate_tokens_ ABSL_GUARDED_BY(mutex_) = 0;
  int issued_ ABSL_GUARDED_BY(mutex_) = 0;
  int streams_ ABSL_GUARDED_BY(mutex_) = 0;
  int port_ = 0;
  std::unique_ptr<grpc::Server> server_;
};

}  // namespace weir::client
