// SPDX-License-Identifier: Apache-2.0
#include "server/server.h"

#include <grpcpp/alarm.h>
#include <grpcpp/ext/proto_server_reflection_plugin.h>
#include <grpcpp/health_check_service_interface.h>
#include <grpcpp/resource_quota.h>

#include <chrono>
#include <condition_variable>
#include <utility>

#include "base/status_macros.h"

namespace weir::server {
namespace {

constexpr int kMessageBytesMax = 1 << 20;
constexpr int kMetadataBytesMax = 8 << 10;
constexpr int kStreamsMax = 100;
constexpr size_t kBufferBytesMax = size_t{256} << 20;
constexpr int kReflectionThreadsMax = 8;

int Millis(absl::Duration duration) {
  return static_cast<int>(absl::ToInt64Milliseconds(duration));
}

std::chrono::system_clock::time_point After(absl::Duration duration) {
  return absl::ToChronoTime(absl::Now() + duration);
}

void SetLimits(grpc::ServerBuilder& builder) {
  builder.SetMaxReceiveMessageSize(kMessageBytesMax);
  // A reply of 65,536 scores is within it.
  builder.SetMaxSendMessageSize(kMessageBytesMax);
  // A few hundred bytes of gzip would become a gibibyte before any limit.
  builder.SetCompressionAlgorithmSupportStatus(GRPC_COMPRESS_DEFLATE, false);
  builder.SetCompressionAlgorithmSupportStatus(GRPC_COMPRESS_GZIP, false);
  grpc::ResourceQuota quota("weir");
  quota.Resize(kBufferBytesMax);
  quota.SetMaxThreads(kReflectionThreadsMax);
  builder.SetResourceQuota(quota);
  const std::pair<const char*, int> arguments[] = {
      {GRPC_ARG_MAX_CONCURRENT_STREAMS, kStreamsMax},
      {GRPC_ARG_MAX_METADATA_SIZE, kMetadataBytesMax},
      {GRPC_ARG_SERVER_HANDSHAKE_TIMEOUT_MS, Millis(absl::Seconds(5))},
      {GRPC_ARG_KEEPALIVE_TIME_MS, Millis(absl::Seconds(60))},
      {GRPC_ARG_KEEPALIVE_TIMEOUT_MS, Millis(absl::Seconds(20))},
      {GRPC_ARG_KEEPALIVE_PERMIT_WITHOUT_CALLS, 1},
      {GRPC_ARG_HTTP2_MIN_RECV_PING_INTERVAL_WITHOUT_DATA_MS,
       Millis(absl::Seconds(20))},
      {GRPC_ARG_MAX_CONNECTION_AGE_MS, Millis(absl::Minutes(30))},
      {GRPC_ARG_MAX_CONNECTION_AGE_GRACE_MS, Millis(absl::Minutes(5))},
  };
  for (const auto& [name, value] : arguments) {
    builder.AddChannelArgument(name, value);
  }
}

}  // namespace

// Calls Calls::Tick once a second, on a gRPC thread.
class Server::Ticker {
 public:
  explicit Ticker(Host& host) : host_(host) { Set(); }

  ~Ticker() {
    std::unique_lock lock(mutex_);
    stopping_ = true;
    alarm_.Cancel();
    stopped_cv_.wait(lock, [this] { return stopped_; });
  }

 private:
  void Set() {
    alarm_.Set(After(absl::Seconds(1)), [this](bool ok) { OnAlarm(ok); });
  }

  void OnAlarm(bool ok) {
    if (ok) host_.calls.Tick(host_.clock->Now());
    const std::lock_guard lock(mutex_);
    if (stopping_) {
      stopped_ = true;
      stopped_cv_.notify_all();
      return;
    }
    Set();
  }

  Host& host_;
  std::mutex mutex_;
  std::condition_variable stopped_cv_;
  bool stopping_ = false;  // guarded by mutex_
  bool stopped_ = false;   // guarded by mutex_
  grpc::Alarm alarm_;
};

absl::StatusOr<std::unique_ptr<Server>> Server::Create(Parts parts,
                                                       const Options& options) {
  SilenceLibraries();
  grpc::EnableDefaultHealthCheckService(true);
  static const bool reflection = [] {
    grpc::reflection::InitProtoReflectionServerBuilderPlugin();
    return true;
  }();
  static_cast<void>(reflection);
  auto host = std::make_shared<Host>();
  host->service = parts.service;
  host->served = std::move(parts.served);
  host->metrics = parts.metrics;
  host->clock = parts.clock;
  host->started = parts.clock->Now();
  std::unique_ptr<Server> server(new Server(std::move(host)));
  WEIR_RETURN_IF_ERROR(server->OpenMain(options));
  if (options.admin_listen) WEIR_RETURN_IF_ERROR(server->OpenAdmin(options));
  server->SetReady(false);
  server->main_.accept->Start();
  if (server->admin_.accept != nullptr) server->admin_.accept->Start();
  return server;
}

Server::Server(std::shared_ptr<Host> host)
    : host_(std::move(host)), ticker_(std::make_unique<Ticker>(*host_)) {}

Server::~Server() { Shutdown(absl::ZeroDuration()); }

void Server::SetReady(bool ready) {
  grpc::HealthCheckServiceInterface* health =
      main_.grpc->GetHealthCheckService();
  health->SetServingStatus("", ready);
  health->SetServingStatus("readiness", ready);
}

void Server::BeginDrain() {
  host_->draining = true;
  SetReady(false);
}

void Server::Shutdown(absl::Duration grace) {
  host_->draining = true;
  ticker_.reset();
  host_->calls.Stop();
  for (Port* port : {&main_, &admin_}) {
    if (port->accept != nullptr) port->accept->Stop();
    if (port->grpc != nullptr) port->grpc->Shutdown(After(grace));
  }
}

absl::Status Server::OpenMain(const Options& options) {
  grpc::ServerBuilder builder;
  main_.sessions = std::make_unique<RawService>(host_, "weir.v1.Sessions");
  main_.models = std::make_unique<RawService>(host_, "weir.v1.Models");
  builder.RegisterService(main_.sessions.get());
  builder.RegisterService(main_.models.get());
  return Open(options.listen, options.connections_max, builder, main_);
}

absl::Status Server::OpenAdmin(const Options& options) {
  grpc::ServerBuilder builder;
  admin_.admin = std::make_unique<RawService>(host_, "weir.v1.Admin");
  builder.RegisterService(admin_.admin.get());
  return Open(*options.admin_listen, options.connections_max, builder, admin_);
}

absl::Status Server::Open(const Address& address,
                          int32_t connections_max,
                          grpc::ServerBuilder& builder,
                          Port& port) {
  WEIR_ASSIGN_OR_RETURN(
      port.accept,
      AcceptLoop::Create({
          .address = address,
          .connections_max = connections_max,
          .on_connection =
              [&port](int listener, int connection) {
                grpc::experimental::ExternalConnectionAcceptor::
                    NewConnectionParameters parameters;
                parameters.listener_fd = listener;
                parameters.fd = connection;
                port.acceptor->HandleNewConnection(&parameters);
              },
          .on_count =
              [this, &port](int64_t open) {
                if (&port == &main_) host_->metrics->OnConnections(open);
              },
          .on_refused = [this] { host_->metrics->OnConnectionRefused(); },
      }));
  SetLimits(builder);
  port.unknown = std::make_unique<UnknownMethods>(host_);
  builder.RegisterCallbackGenericService(port.unknown.get());
  port.acceptor = builder.experimental().AddExternalConnectionAcceptor(
      grpc::ServerBuilder::experimental_type::ExternalConnectionType::FROM_FD,
      grpc::InsecureServerCredentials());
  port.grpc = builder.BuildAndStart();
  if (port.grpc == nullptr) {
    return absl::UnavailableError("gRPC could not start its server");
  }
  return absl::OkStatus();
}

}  // namespace weir::server
