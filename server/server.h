// SPDX-License-Identifier: Apache-2.0
//
// The gRPC server: Sessions and Models with health and reflection on one port,
// Admin on another, and the limits that keep one client from hurting the rest.
//
// Threads: the methods from the main thread.
#pragma once

#include <grpcpp/grpcpp.h>

#include <memory>
#include <optional>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "server/accept_loop.h"
#include "server/call.h"
#include "server/config.h"
#include "server/methods.h"

namespace weir::server {

class Server {
 public:
  struct Parts {
    service::Service* service = nullptr;  // outlives the server
    Metrics* metrics = nullptr;           // outlives the server and the service
    const service::Clock* clock = nullptr;
    Served served;
  };
  struct Options {
    Address listen;
    std::optional<Address> admin_listen;
    int32_t connections_max = 1024;
  };

  // Listens and serves; not ready until SetReady. UNAVAILABLE if an address
  // cannot be had.
  static absl::StatusOr<std::unique_ptr<Server>> Create(Parts parts,
                                                        const Options& options);
  // Ends all calls at once.
  ~Server();

  // What the health service says for "" and "readiness".
  void SetReady(bool ready);
  // Not ready any more, and draining, as GetServerInfo says.
  void BeginDrain();
  // Ends idle streams, lets calls finish for at most `grace`, then cancels
  // them. Waits for their end.
  void Shutdown(absl::Duration grace);

  // Where it listens; the ports are the real ones.
  const Address& address() const { return main_.accept->address(); }
  const Address* admin_address() const {
    return admin_.accept == nullptr ? nullptr : &admin_.accept->address();
  }

 private:
  // A gRPC server with the loop that feeds it.
  struct Port {
    std::unique_ptr<grpc::Service> sessions;
    std::unique_ptr<grpc::Service> models;
    std::unique_ptr<grpc::Service> admin;
    std::unique_ptr<UnknownMethods> unknown;
    std::unique_ptr<grpc::experimental::ExternalConnectionAcceptor> acceptor;
    std::unique_ptr<grpc::Server> grpc;
    std::unique_ptr<AcceptLoop> accept;  // last: it uses the ones above
  };
  class Ticker;

  explicit Server(std::shared_ptr<Host> host);
  absl::Status OpenMain(const Options& options);
  absl::Status OpenAdmin(const Options& options);
  absl::Status Open(const Address& address,
                    int32_t connections_max,
                    grpc::ServerBuilder& builder,
                    Port& port);

  const std::shared_ptr<Host> host_;
  Port main_;
  Port admin_;
  std::unique_ptr<Ticker> ticker_;
};

}  // namespace weir::server
