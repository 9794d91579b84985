// SPDX-License-Identifier: Apache-2.0
//
// The methods that this server answers: one row each, and the gRPC services
// made of them.
//
// Threads: constant tables; the services are gRPC's.
#pragma once

#include <grpcpp/generic/async_generic_service.h>
#include <grpcpp/impl/service_type.h>

#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "server/call.h"
#include "server/metrics.h"

namespace weir::server {

// All methods, and last one row for those that do not exist.
std::span<const RpcName> RpcNames();

// The methods of one proto service, for example "weir.v1.Sessions". Each is
// registered as a stream of raw messages: see call.h.
class RawService final : public grpc::Service {
 public:
  RawService(const std::shared_ptr<Host>& host, std::string_view service);

 private:
  std::vector<std::unique_ptr<std::string>> paths_;  // gRPC keeps pointers
};

// Answers what no service does: UNIMPLEMENTED UNKNOWN_METHOD.
class UnknownMethods final : public grpc::CallbackGenericService {
 public:
  explicit UnknownMethods(std::shared_ptr<Host> host)
      : host_(std::move(host)) {}

  grpc::ServerGenericBidiReactor* CreateReactor(
      grpc::GenericCallbackServerContext* context) override;

 private:
  const std::shared_ptr<Host> host_;
};

}  // namespace weir::server
