// SPDX-License-Identifier: Apache-2.0
//
// Calls of methods that take one request: unary ones and server streams. The
// request is handled when the client has said its last word, so that a second
// message is refused before anything has been done.
//
// Threads: as Call.
#pragma once

#include <atomic>
#include <memory>
#include <string_view>

#include "server/call.h"

namespace weir::server {

class RequestCall : public Call {
 public:
  using Call::Call;

  void OnReadDone(bool ok) final;

 protected:
  // On a gRPC thread, once. Ends the call sooner or later.
  virtual void Handle(std::string_view request) = 0;

  std::shared_ptr<RequestCall> Self() {
    return std::static_pointer_cast<RequestCall>(shared_from_this());
  }

 private:
  void Start() final;
  void OnTick(absl::Duration now) final;

  grpc::ByteBuffer request_;
  grpc::ByteBuffer surplus_;
  bool has_request_ = false;  // owned by the reads, one at a time
  std::atomic<bool> handled_ = false;
};

// A unary call: `serve` answers it by SendLast, Refuse or Close.
class UnaryCall final : public RequestCall {
 public:
  using Serve = void (*)(const std::shared_ptr<Call>& call, Wire& wire);

  UnaryCall(std::shared_ptr<Host> host,
            Kind kind,
            grpc::CallbackServerContext* context,
            Serve serve)
      : RequestCall(std::move(host), kind, context), serve_(serve) {}

 private:
  void Handle(std::string_view request) override;

  const Serve serve_;
};

class GenerateCall final : public RequestCall {
 public:
  using RequestCall::RequestCall;

 private:
  void Handle(std::string_view request) override;
};

// A method that is named in the contract and not built, or not named at all.
class RefusedCall final : public Call {
 public:
  RefusedCall(std::shared_ptr<Host> host,
              Kind kind,
              grpc::CallbackServerContext* context,
              absl::Status refusal)
      : Call(std::move(host), kind, context), refusal_(std::move(refusal)) {}

 private:
  void Start() override { Refuse(refusal_); }

  const absl::Status refusal_;
};

}  // namespace weir::server
