// SPDX-License-Identifier: Apache-2.0
//
// Client: one server, every call of weir.v1 that is built, tried again where
// that is safe. Requests and replies are the wire's own messages; a refusal is
// an absl::Status whose reason client/errors.h reads.
//
// Threads: every method from any thread.
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "client/cancellation.h"
#include "client/retry.h"
#include "grpcpp/channel.h"
#include "weir/v1/admin.grpc.pb.h"
#include "weir/v1/models.grpc.pb.h"
#include "weir/v1/sessions.grpc.pb.h"

namespace weir::client {

struct ClientOptions {
  // HOST:PORT, or any target that gRPC resolves.
  std::string target = "127.0.0.1:7070";
  // HOST:PORT of the server's Admin service; empty: GetServerInfo is refused.
  std::string admin_target;
  // One try of a unary call, but for appends and forks, whose tries get all the
  // time left; and how long a stream may be silent while an answer is due. A
  // call with all its tries ends after retry.time_max.
  absl::Duration call_deadline = absl::Seconds(15);
  RetryPolicy retry;
  // Ends everything this client does; null: the client makes its own.
  std::shared_ptr<Cancellation> cancellation;
};

// 32 random hex digits: an id for a session or a request.
std::string NewId();

class Client {
 public:
  explicit Client(ClientOptions options);

  // Waits until the server is reached; UNAVAILABLE, as soon as it is known,
  // if it is not. Every call connects by itself: this is for telling a person.
  absl::Status Connect(absl::Duration timeout);

  // Tried again only with a session_id: without one a lost reply would leave
  // a session that nobody knows.
  absl::StatusOr<v1::OpenSessionReply> OpenSession(
      const v1::OpenSessionRequest& request);
  absl::StatusOr<v1::Session> GetSession(std::string_view session_id);
  // All pages.
  absl::StatusOr<std::vector<v1::Session>> ListSessions();
  absl::StatusOr<v1::CloseSessionReply> CloseSession(
      std::string_view session_id);
  absl::StatusOr<v1::AppendReply> Append(const v1::AppendRequest& request);
  // An empty request_id is filled in, so that it can be sent again: what comes
  // again waits for a copy that is being rebuilt.
  absl::StatusOr<v1::ForkReply> Fork(v1::ForkRequest request);
  absl::StatusOr<v1::Model> GetModel(std::string_view name);
  // All pages.
  absl::StatusOr<std::vector<v1::Model>> ListModels();
  absl::StatusOr<v1::GetServerInfoReply> GetServerInfo();

  // For the calls that are streams: client/stream_append.h and
  // client/generation.h.
  v1::Sessions::Stub& sessions() { return *sessions_; }
  Cancellation& cancellation() { return *options_.cancellation; }
  const ClientOptions& options() const { return options_; }

 private:
  using Try = std::function<grpc::Status(grpc::ClientContext*)>;
  absl::Status Call(Repeat repeat,
                    std::string_view session_id,
                    const Try& call);

  ClientOptions options_;
  std::shared_ptr<grpc::Channel> channel_;
  std::unique_ptr<v1::Sessions::Stub> sessions_;
  std::unique_ptr<v1::Models::Stub> models_;
  std::unique_ptr<v1::Admin::Stub> admin_;  // null without admin_target
};

// Names the session to routers that keep a session on one server; a hint.
void AddSessionHint(std::string_view session_id, grpc::ClientContext* context);

}  // namespace weir::client
