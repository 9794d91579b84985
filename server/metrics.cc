// SPDX-License-Identifier: Apache-2.0
#include "server/metrics.h"

#include <prometheus/counter.h>
#include <prometheus/gauge.h>
#include <prometheus/histogram.h>
#include <prometheus/registry.h>
#include <prometheus/text_serializer.h>

#include <atomic>
#include <iterator>
#include <string>

#include "server/process_metrics.h"
#include "server/version.h"

namespace weir::server {
namespace {

using prometheus::BuildCounter;
using prometheus::BuildGauge;
using prometheus::BuildHistogram;
using prometheus::Counter;
using prometheus::Gauge;
using prometheus::Histogram;
using prometheus::Registry;

const Histogram::BucketBoundaries kSeconds = {0.0005,
                                              0.001,
                                              0.0025,
                                              0.005,
                                              0.01,
                                              0.025,
                                              0.05,
                                              0.1,
                                              0.25,
                                              0.5,
                                              1,
                                              2.5,
                                              5,
                                              10,
                                              30,
                                              60};
const Histogram::BucketBoundaries kRows = {
    1, 2, 4, 8, 16, 32, 64, 128, 256, 512};
const Histogram::BucketBoundaries kStepTokens = {
    1, 4, 16, 64, 128, 256, 512, 1024, 4096};
const Histogram::BucketBoundaries kSessionTokens = {
    1, 100, 1e3, 1e4, 1e5, 1e6, 1e7, 1e8, 1e9};

constexpr std::string_view kCodes[] = {"OK",
                                       "Canceled",
                                       "Unknown",
                                       "InvalidArgument",
                                       "DeadlineExceeded",
                                       "NotFound",
                                       "AlreadyExists",
                                       "PermissionDenied",
                                       "ResourceExhausted",
                                       "FailedPrecondition",
                                       "Aborted",
                                       "OutOfRange",
                                       "Unimplemented",
                                       "Internal",
                                       "Unavailable",
                                       "DataLoss",
                                       "Unauthenticated"};

constexpr const char* kCloseReasons[] = {"client", "idle", "error", "drain"};
constexpr const char* kPhases[] = {"prefill", "decode", "mixed"};

Counter& AddCounter(Registry& registry, const char* name, const char* help) {
  return BuildCounter().Name(name).Help(help).Register(registry).Add({});
}

Gauge& AddGauge(Registry& registry, const char* name, const char* help) {
  return BuildGauge().Name(name).Help(help).Register(registry).Add({});
}

Histogram& AddHistogram(Registry& registry,
                        const char* name,
                        const char* help,
                        const Histogram::BucketBoundaries& bounds = kSeconds) {
  return BuildHistogram().Name(name).Help(help).Register(registry).Add({},
                                                                       bounds);
}

std::vector<RpcMetrics> MakeRpcs(Registry& registry,
                                 std::span<const RpcName> names) {
  auto& started = BuildCounter()
                      .Name("grpc_server_started_total")
                      .Help("Calls begun.")
                      .Register(registry);
  auto& received = BuildCounter()
                       .Name("grpc_server_msg_received_total")
                       .Help("Messages received.")
                       .Register(registry);
  auto& sent = BuildCounter()
                   .Name("grpc_server_msg_sent_total")
                   .Help("Messages sent.")
                   .Register(registry);
  auto& handled = BuildCounter()
                      .Name("grpc_server_handled_total")
                      .Help("Calls ended, by their status code.")
                      .Register(registry);
  auto& handling = BuildHistogram()
                       .Name("grpc_server_handling_seconds")
                       .Help("Time from the start of a call to its end.")
                       .Register(registry);
  std::vector<RpcMetrics> rpcs;
  for (const RpcName& name : names) {
    prometheus::Labels labels = {{"grpc_type", std::string(name.type)},
                                 {"grpc_service", std::string(name.service)},
                                 {"grpc_method", std::string(name.method)}};
    RpcMetrics& rpc = rpcs.emplace_back();
    rpc.started = &started.Add(labels);
    rpc.received = &received.Add(labels);
    rpc.sent = &sent.Add(labels);
    rpc.handling = &handling.Add(labels, kSeconds);
    for (size_t code = 0; code < std::size(kCodes); ++code) {
      labels["grpc_code"] = std::string(kCodes[code]);
      rpc.handled[code] = &handled.Add(labels);
    }
  }
  return rpcs;
}

bool IsOpenStream(RpcShape shape) {
  return shape == RpcShape::kGenerate || shape == RpcShape::kStream;
}

double SecondsOf(absl::Duration duration) {
  return absl::ToDoubleSeconds(duration);
}

}  // namespace

struct Metrics::Parts {
  explicit Parts(Registry& registry) : registry(registry) {
    auto& phases = BuildHistogram()
                       .Name("weir_step_duration_seconds")
                       .Help("Time of a step, by what its rows were.")
                       .Register(registry);
    for (size_t phase = 0; phase < std::size(kPhases); ++phase) {
      step_duration[phase] = &phases.Add({{"phase", kPhases[phase]}}, kSeconds);
    }
    auto& slots = BuildGauge()
                      .Name("weir_state_slots")
                      .Help("Slots of the state pool.")
                      .Register(registry);
    slots_used = &slots.Add({{"state", "used"}});
    slots_free = &slots.Add({{"state", "free"}});
    capacity_bytes = &BuildGauge()
                          .Name("weir_state_pool_capacity_bytes")
                          .Help("Bytes of all slots.")
                          .Register(registry)
                          .Add({{"tier", "device"}});
    used_bytes = &BuildGauge()
                      .Name("weir_state_pool_used_bytes")
                      .Help("Bytes of the slots that sessions hold.")
                      .Register(registry)
                      .Add({{"tier", "device"}});
    auto& closes = BuildCounter()
                       .Name("weir_sessions_closed_total")
                       .Help("Sessions closed, by why.")
                       .Register(registry);
    for (size_t reason = 0; reason < std::size(kCloseReasons); ++reason) {
      closed[reason] = &closes.Add({{"reason", kCloseReasons[reason]}});
    }
    auto& reasons = BuildCounter()
                        .Name("weir_errors_total")
                        .Help(
                            "Requests refused or failed, by "
                            "google.rpc.ErrorInfo.reason.")
                        .Register(registry);
    for (const service::ReasonInfo& reason : service::Reasons()) {
      errors.push_back(&reasons.Add({{"reason", std::string(reason.name)}}));
    }
    BuildGauge()
        .Name("weir_build_info")
        .Help("Which build this is; always 1.")
        .Register(registry)
        .Add({{"version", kVersion},
              {"revision", kRevision},
              {"backend", "cpu"}},
             1);
  }

  Registry& registry;
  std::atomic<uint64_t> state_bytes = 0;

  Gauge& running = AddGauge(registry,
                            "weir_requests_running",
                            "Requests with a row in the last step; 0 at rest.");
  Gauge& waiting = AddGauge(registry,
                            "weir_requests_waiting",
                            "Accepted requests without a row in it.");
  Gauge& backlog = AddGauge(registry,
                            "weir_backlog_tokens",
                            "Accepted tokens that are not yet in a state.");
  Gauge& streams = AddGauge(
      registry, "weir_streams_open", "Stream and Generate calls in flight.");
  Histogram& batch_rows =
      AddHistogram(registry, "weir_batch_size", "Rows of a step.", kRows);
  Histogram& batch_tokens = AddHistogram(
      registry, "weir_batch_tokens", "Tokens of a step.", kStepTokens);
  std::array<Histogram*, std::size(kPhases)> step_duration{};

  Gauge& usage = AddGauge(registry,
                          "weir_state_pool_usage_ratio",
                          "Share of the slots that sessions hold, 0 to 1.");
  Gauge* slots_used = nullptr;
  Gauge* slots_free = nullptr;
  Gauge* capacity_bytes = nullptr;
  Gauge* used_bytes = nullptr;
  Gauge& log_bytes =
      AddGauge(registry, "weir_log_bytes", "Host memory that the logs take.");
  Gauge& log_capacity =
      AddGauge(registry, "weir_log_capacity_bytes", "What the logs may take.");

  Gauge& sessions = AddGauge(registry, "weir_sessions", "Open sessions.");
  Counter& created =
      AddCounter(registry, "weir_sessions_created_total", "Sessions opened.");
  std::array<Counter*, std::size(kCloseReasons)> closed{};
  Histogram& session_tokens =
      AddHistogram(registry,
                   "weir_session_length_tokens",
                   "Tokens of a session when it was closed.",
                   kSessionTokens);

  Counter& prompt = AddCounter(
      registry, "weir_prompt_tokens_total", "Tokens of appends applied.");
  Counter& generated =
      AddCounter(registry, "weir_generation_tokens_total", "Tokens generated.");
  Counter& reused =
      AddCounter(registry,
                 "weir_reused_tokens_total",
                 "Tokens before an append or a generation that its session's "
                 "state held already and that cost nothing.");
  Counter& duplicate = AddCounter(registry,
                                  "weir_duplicate_tokens_total",
                                  "Tokens recognised as sent before.");

  Histogram& first_token =
      AddHistogram(registry,
                   "weir_time_to_first_token_seconds",
                   "Time from a generation's request to its first token.");
  Histogram& next_token =
      AddHistogram(registry,
                   "weir_inter_token_latency_seconds",
                   "Time from one generated token to the next.");
  Histogram& append_ack =
      AddHistogram(registry,
                   "weir_append_ack_seconds",
                   "Time from an append's request to its reply.");
  Histogram& queue_time =
      AddHistogram(registry,
                   "weir_queue_time_seconds",
                   "Time from a request to its first row in a step.");
  Histogram& request_duration =
      AddHistogram(registry,
                   "weir_request_duration_seconds",
                   "Time from the start of a call to its end, of methods that "
                   "take one request.");

  std::vector<Counter*> errors;
  Counter& unknown_fields =
      AddCounter(registry,
                 "weir_unknown_fields_total",
                 "Fields in requests that this version does not know.");
  Gauge& connections =
      AddGauge(registry, "weir_connections", "Connections of clients.");
  Counter& connections_refused =
      AddCounter(registry,
                 "weir_connections_refused_total",
                 "Connections closed at once, being too many.");
};

Metrics::Metrics(std::span<const RpcName> rpcs)
    : registry_(std::make_unique<Registry>()),
      rpcs_(MakeRpcs(*registry_, rpcs)),
      parts_(std::make_unique<Parts>(*registry_)) {}

Metrics::~Metrics() = default;

void Metrics::SetServed(const Served& served) {
  parts_->state_bytes = served.model.state_bytes;
  parts_->log_capacity.Set(static_cast<double>(served.limits.log_bytes_max));
  BuildGauge()
      .Name("weir_model_info")
      .Help("The model that is served; always 1.")
      .Register(*registry_)
      .Add({{"model_name", served.name},
            {"arch", served.model.family},
            {"dtype", served.model.dtype}},
           1);
}

void Metrics::OnStep(const service::StepStats& stats) {
  parts_->batch_rows.Observe(stats.rows);
  parts_->batch_tokens.Observe(static_cast<double>(stats.tokens));
  parts_->step_duration[static_cast<size_t>(stats.phase)]->Observe(
      SecondsOf(stats.duration));
}

void Metrics::OnLevels(const service::Levels& levels) {
  const double used = levels.slots - levels.slots_free;
  const auto bytes = static_cast<double>(parts_->state_bytes.load());
  parts_->running.Set(static_cast<double>(levels.requests_running));
  parts_->waiting.Set(static_cast<double>(levels.requests_waiting));
  parts_->backlog.Set(static_cast<double>(levels.backlog_tokens));
  parts_->usage.Set(levels.slots == 0 ? 0 : used / levels.slots);
  parts_->slots_used->Set(used);
  parts_->slots_free->Set(levels.slots_free);
  parts_->capacity_bytes->Set(bytes * levels.slots);
  parts_->used_bytes->Set(bytes * used);
  parts_->sessions.Set(static_cast<double>(levels.sessions));
  parts_->log_bytes.Set(static_cast<double>(levels.log_bytes));
}

void Metrics::OnSessionOpened() { parts_->created.Increment(); }

void Metrics::OnSessionClosed(service::CloseReason reason, uint64_t position) {
  parts_->closed[static_cast<size_t>(reason)]->Increment();
  parts_->session_tokens.Observe(static_cast<double>(position));
}

void Metrics::OnAppended(uint64_t tokens) {
  parts_->prompt.Increment(static_cast<double>(tokens));
}

void Metrics::OnReused(uint64_t tokens) {
  parts_->reused.Increment(static_cast<double>(tokens));
}

void Metrics::OnDuplicate(uint64_t tokens) {
  parts_->duplicate.Increment(static_cast<double>(tokens));
}

void Metrics::OnAppendAck(absl::Duration since_push) {
  parts_->append_ack.Observe(SecondsOf(since_push));
}

void Metrics::OnQueueTime(absl::Duration since_push) {
  parts_->queue_time.Observe(SecondsOf(since_push));
}

void Metrics::OnGenerated(bool first, absl::Duration since) {
  parts_->generated.Increment();
  (first ? parts_->first_token : parts_->next_token).Observe(SecondsOf(since));
}

void Metrics::OnRejected(service::Reason reason) {
  parts_->errors[static_cast<size_t>(reason)]->Increment();
}

void Metrics::OnRpcStarted(size_t rpc, RpcShape shape) {
  rpcs_[rpc].started->Increment();
  if (IsOpenStream(shape)) parts_->streams.Increment();
}

void Metrics::OnMessageReceived(size_t rpc) {
  rpcs_[rpc].received->Increment();
}

void Metrics::OnMessageSent(size_t rpc) { rpcs_[rpc].sent->Increment(); }

void Metrics::OnRpcDone(size_t rpc,
                        RpcShape shape,
                        absl::StatusCode code,
                        absl::Duration duration) {
  const auto index = static_cast<size_t>(code);
  rpcs_[rpc]
      .handled[index < std::size(kCodes)
                   ? index
                   : static_cast<size_t>(absl::StatusCode::kUnknown)]
      ->Increment();
  rpcs_[rpc].handling->Observe(SecondsOf(duration));
  if (IsOpenStream(shape)) parts_->streams.Decrement();
  if (shape == RpcShape::kUnary || shape == RpcShape::kGenerate) {
    parts_->request_duration.Observe(SecondsOf(duration));
  }
}

void Metrics::OnUnknownFields(int64_t count) {
  if (count > 0) parts_->unknown_fields.Increment(static_cast<double>(count));
}

void Metrics::OnConnections(int64_t open) {
  parts_->connections.Set(static_cast<double>(open));
}

void Metrics::OnConnectionRefused() { parts_->connections_refused.Increment(); }

std::string Metrics::Page() const {
  std::vector<prometheus::MetricFamily> families = registry_->Collect();
  for (prometheus::MetricFamily& family : ProcessMetrics()) {
    families.push_back(std::move(family));
  }
  return prometheus::TextSerializer().Serialize(families);
}

}  // namespace weir::server
