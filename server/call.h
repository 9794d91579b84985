// SPDX-License-Identifier: Apache-2.0
//
// One call of a client, whatever its method: what is common to all of them.
// Every method is served as a stream of raw messages, so that truncated,
// malformed and surplus messages get answers of ours and not the library's.
//
// Messages to send wait in a queue, one is on its way; a call ends once. A
// client that does not read for Limits::slow_consumer_after is cut off.
//
// Threads: reactions on gRPC's threads, several at once; Send, Close and Abort
// from any, also the step thread. Nothing here waits but for the call's mutex,
// which is never held while the service is called.
#pragma once

#include <grpcpp/grpcpp.h>
#include <grpcpp/support/server_callback.h>

#include <atomic>
#include <deque>
#include <memory>
#include <mutex>
#include <optional>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "absl/status/status.h"
#include "absl/time/time.h"
#include "server/convert.h"
#include "server/metrics.h"
#include "server/served.h"
#include "service/clock.h"
#include "service/error.h"
#include "service/service.h"

namespace weir::server {

class Call;

// The calls in flight.
class Calls {
 public:
  void Add(const std::shared_ptr<Call>& call);
  void Remove(const Call* call);
  // Looks after each: once a second.
  void Tick(absl::Duration now);
  // Ends streams that wait for their clients.
  void Stop();

 private:
  std::vector<std::shared_ptr<Call>> All() const;

  mutable std::mutex mutex_;
  std::unordered_map<const Call*, std::weak_ptr<Call>> calls_;
};

// What calls need of the server. Shared by all of them: an answer of the
// service may come when the server is gone.
struct Host {
  service::Service* service = nullptr;  // while a call is in flight
  Served served;
  Metrics* metrics = nullptr;
  const service::Clock* clock = nullptr;
  absl::Duration started;  // by clock
  Calls calls;
  std::atomic<bool> draining = false;
};

// The bytes of a message as one piece, copied only if they came in several.
class MessageView {
 public:
  explicit MessageView(const grpc::ByteBuffer& buffer);
  std::string_view bytes() const {
    return {reinterpret_cast<const char*>(slice_.begin()), slice_.size()};
  }

 private:
  grpc::Slice slice_;
};

class Call : public grpc::ServerBidiReactor<grpc::ByteBuffer, grpc::ByteBuffer>,
             public std::enable_shared_from_this<Call> {
 public:
  struct Kind {
    size_t rpc = 0;  // index of the metrics
    RpcShape shape = RpcShape::kUnary;
  };

  Call(std::shared_ptr<Host> host,
       Kind kind,
       grpc::CallbackServerContext* context);

  // Hands the call to gRPC, which holds it until OnDone.
  static grpc::ServerBidiReactor<grpc::ByteBuffer, grpc::ByteBuffer>* Begin(
      std::shared_ptr<Call> call);

  // Queues a message. `event`: counts in CallState::unsent until it is sent.
  void Send(const grpc::ByteBuffer& message, bool event = false);
  // Queues the last message of a call that ends with OK.
  void SendLast(const grpc::ByteBuffer& message, bool event = false);
  // Ends the call when what is queued has been sent.
  void Close(const absl::Status& status);
  // Ends the call now; what is queued is dropped.
  void Abort(const absl::Status& status);
  // As Close, and counts the refusal once the client has been told: for those
  // that the service has not seen. gRPC's core may have had its own answer.
  void Refuse(const absl::Status& status);
  void CountRefusal(const absl::Status& status);

  void Tick(absl::Duration now);
  // The server is stopping, and what was accepted has been answered.
  virtual void OnStopping() {}

  Host& host() const { return *host_; }
  // What the service is told about the caller of a request that starts now.
  service::CallContext ServiceContext() const;

  void OnWriteDone(bool ok) final;
  void OnCancel() final;
  void OnDone() final;

 protected:
  // The first read.
  virtual void Start() = 0;
  // A message has been sent.
  virtual void OnSent() {}
  virtual void OnTick(absl::Duration /*now*/) {}

  // Reads a message into `message`; false once the call has ended.
  bool Read(grpc::ByteBuffer* message);
  // Whether a failed read means a broken call and not the client's last word.
  bool Broken() const { return context_->IsCancelled(); }
  void CountReceived() { host_->metrics->OnMessageReceived(kind_.rpc); }
  // Messages that wait or are on their way.
  struct Unsent {
    size_t messages = 0;
    size_t bytes = 0;
  };
  Unsent unsent() const;
  absl::Duration begun() const { return begun_; }

 private:
  struct Outgoing {
    grpc::ByteBuffer message;
    size_t bytes = 0;
    bool event = false;
  };
  // These REQUIRE mutex_ to be held.
  void Enqueue(const grpc::ByteBuffer& message, bool event);
  void Pump();
  void End(const absl::Status& status);

  // Constant after construction.
  const std::shared_ptr<Host> host_;
  const Kind kind_;
  const absl::Duration begun_;     // by the host's clock
  const absl::Duration deadline_;  // the client's, by the host's clock
  const std::shared_ptr<service::CallState> state_;
  grpc::CallbackServerContext* const context_;  // until OnDone

  mutable std::mutex mutex_;
  // Guarded by mutex_.
  std::shared_ptr<Call> self_;
  std::deque<Outgoing> queue_;
  Outgoing sending_;
  size_t unsent_bytes_ = 0;  // of both
  bool writing_ = false;
  bool closing_ = false;
  bool ended_ = false;  // Finish has been called
  bool done_ = false;
  bool cancelled_ = false;
  std::optional<service::Reason> refusal_;
  absl::Status status_;  // with closing_: how it will end
  absl::StatusCode code_ = absl::StatusCode::kOk;  // with ended_
  absl::Duration write_begun_;
  absl::Duration ended_at_;
};

}  // namespace weir::server
