// SPDX-License-Identifier: Apache-2.0
//
// What the server counts, and the page that shows it. Every label set is made
// at start, so that an alert sees a zero and not nothing; none holds what a
// client chose.
//
// Threads: any. A count is an atomic add, an observation a short lock of one
// histogram that otherwise only a scrape takes.
#pragma once

#include <array>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "absl/time/time.h"
#include "server/served.h"
#include "service/observer.h"

namespace prometheus {
class Counter;
class Gauge;
class Histogram;
class Registry;
}  // namespace prometheus

namespace weir::server {

// The names of a method, as grpc_server_* labels it.
struct RpcName {
  std::string_view type;     // unary, server_stream, client_stream, bidi_stream
  std::string_view service;  // weir.v1.Sessions
  std::string_view method;   // Append
};

// What a call is counted as, besides its method.
enum class RpcShape {
  kUnary,     // a request and its reply: timed
  kGenerate,  // a request and its replies: timed, and an open stream
  kStream,    // as long as its client wants: an open stream
  kRefused    // of a method that is not there
};

// The counters of one method.
struct RpcMetrics {
  prometheus::Counter* started = nullptr;
  prometheus::Counter* received = nullptr;
  prometheus::Counter* sent = nullptr;
  prometheus::Histogram* handling = nullptr;
  std::array<prometheus::Counter*, 17> handled{};  // by status code
};

class Metrics final : public service::Observer {
 public:
  explicit Metrics(std::span<const RpcName> rpcs);
  ~Metrics() override;

  // Once, when the model has been loaded.
  void SetServed(const Served& served);

  void OnStep(const service::StepStats& stats) override;
  void OnLevels(const service::Levels& levels) override;
  void OnSessionOpened() override;
  void OnSessionClosed(service::CloseReason reason, uint64_t position) override;
  void OnAppended(uint64_t tokens) override;
  void OnReused(uint64_t tokens) override;
  void OnDuplicate(uint64_t tokens) override;
  void OnAppendAck(absl::Duration since_push) override;
  void OnQueueTime(absl::Duration since_push) override;
  void OnGenerated(bool first, absl::Duration since) override;
  void OnRejected(service::Reason reason) override;

  // `rpc`: an index of the names given at construction.
  void OnRpcStarted(size_t rpc, RpcShape shape);
  void OnMessageReceived(size_t rpc);
  void OnMessageSent(size_t rpc);
  void OnRpcDone(size_t rpc,
                 RpcShape shape,
                 absl::StatusCode code,
                 absl::Duration duration);
  void OnUnknownFields(int64_t count);
  void OnConnections(int64_t open);
  void OnConnectionRefused();

  // The page in Prometheus' text format.
  std::string Page() const;

 private:
  struct Parts;

  std::unique_ptr<prometheus::Registry> registry_;
  std::vector<RpcMetrics> rpcs_;
  std::unique_ptr<Parts> parts_;
};

}  // namespace weir::server
