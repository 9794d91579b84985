// SPDX-License-Identifier: Apache-2.0
#include "server/metrics.h"

#include <cstdio>
#include <fstream>
#include <map>
#include <set>
#include <sstream>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace weir::server {
namespace {

constexpr RpcName kRpcs[] = {{"unary", "weir.v1.Sessions", "Append"},
                             {"bidi_stream", "weir.v1.Sessions", "Stream"}};

Served MakeServed() {
  Served served;
  served.name = "demo";
  served.model.family = "mamba2";
  served.model.dtype = "f32";
  served.model.state_bytes = 100;
  return served;
}

// The page read as a scraper does, and held to the format's rules.
struct Page {
  std::map<std::string, double> series;
  std::map<std::string, std::string> types;
  std::vector<std::string> wrong;

  explicit Page(const std::string& text) {
    std::set<std::string> helped;
    std::istringstream lines(text);
    for (std::string line; std::getline(lines, line);) {
      std::istringstream words(line);
      std::string mark, kind, name;
      words >> mark >> kind >> name;
      if (mark == "#" && kind == "HELP") {
        if (!helped.insert(name).second) wrong.push_back("two HELP: " + name);
      } else if (mark == "#" && kind == "TYPE") {
        words >> types[name];
      } else if (!line.empty()) {
        const size_t space = line.rfind(' ');
        const std::string key = line.substr(0, space);
        if (!series.emplace(key, std::stod(line.substr(space))).second) {
          wrong.push_back("twice: " + key);
        }
        CheckFamily(key, helped);
      }
    }
  }

  void CheckFamily(const std::string& key,
                   const std::set<std::string>& helped) {
    std::string name = key.substr(0, key.find('{'));
    for (const char* suffix : {"_bucket", "_sum", "_count"}) {
      const std::string family =
          name.substr(0, name.size() - std::string(suffix).size());
      if (name.ends_with(suffix) && types.contains(family)) name = family;
    }
    if (!helped.contains(name)) wrong.push_back("no HELP: " + name);
    if (!types.contains(name)) wrong.push_back("no TYPE: " + name);
    if ((types[name] == "counter") != name.ends_with("_total")) {
      wrong.push_back("a counter and no _total, or the reverse: " + name);
    }
  }
};

double Value(const Metrics& metrics, const std::string& key) {
  const Page page(metrics.Page());
  const auto found = page.series.find(key);
  return found == page.series.end() ? -1 : found->second;
}

TEST(MetricsTest, ThePageKeepsTheFormatsRules) {
  Metrics metrics(kRpcs);
  metrics.SetServed(MakeServed());

  const Page page(metrics.Page());

  EXPECT_THAT(page.wrong, ::testing::IsEmpty());
  EXPECT_GT(page.series.size(), 100u);
  EXPECT_LT(page.series.size(), 2000u);
}

TEST(MetricsTest, EveryLabelSetIsThereBeforeAnythingHappens) {
  Metrics metrics(kRpcs);
  metrics.SetServed(MakeServed());
  const Page page(metrics.Page());

  std::vector<std::string> keys = {
      "weir_requests_running",
      "weir_requests_waiting",
      "weir_streams_open",
      "weir_batch_size_count",
      "weir_batch_tokens_count",
      "weir_state_pool_usage_ratio",
      "weir_state_slots{state=\"used\"}",
      "weir_state_slots{state=\"free\"}",
      "weir_state_pool_capacity_bytes{tier=\"device\"}",
      "weir_state_pool_used_bytes{tier=\"device\"}",
      "weir_sessions",
      "weir_sessions_created_total",
      "weir_session_length_tokens_count",
      "weir_prompt_tokens_total",
      "weir_generation_tokens_total",
      "weir_reused_tokens_total",
      "weir_time_to_first_token_seconds_count",
      "weir_inter_token_latency_seconds_count",
      "weir_append_ack_seconds_count",
      "weir_queue_time_seconds_count",
      "weir_request_duration_seconds_count",
      "weir_model_info{arch=\"mamba2\",dtype=\"f32\",model_name=\"demo\"}",
      "process_cpu_seconds_total",
      "process_resident_memory_bytes",
      "process_virtual_memory_bytes",
      "process_open_fds",
      "process_max_fds",
      "process_start_time_seconds",
      "process_threads"};
  for (const char* phase : {"prefill", "decode", "mixed"}) {
    keys.push_back(absl::StrCat(
        "weir_step_duration_seconds_count{phase=\"", phase, "\"}"));
  }
  for (const char* reason : {"client", "idle", "error", "drain"}) {
    keys.push_back(
        absl::StrCat("weir_sessions_closed_total{reason=\"", reason, "\"}"));
  }
  for (const service::ReasonInfo& reason : service::Reasons()) {
    keys.push_back(absl::StrCat(
        "weir_errors_total{reason=\"", std::string(reason.name), "\"}"));
  }
  for (const char* code : {"OK",
                           "Canceled",
                           "InvalidArgument",
                           "Aborted",
                           "DeadlineExceeded",
                           "Unavailable",
                           "Internal"}) {
    keys.push_back(absl::StrCat(
        "grpc_server_handled_total{grpc_code=\"",
        code,
        "\",grpc_method=\"Append\",grpc_service=\"weir.v1.Sessions\","
        "grpc_type=\"unary\"}"));
  }
  for (const std::string& key : keys) {
    EXPECT_TRUE(page.series.contains(key)) << key;
  }
}

TEST(MetricsTest, WhatTheServiceTellsIsCounted) {
  Metrics metrics(kRpcs);
  metrics.SetServed(MakeServed());

  metrics.OnStep({service::StepPhase::kDecode, 3, 5, absl::Milliseconds(2)});
  metrics.OnLevels({.slots = 8,
                    .slots_free = 6,
                    .sessions = 2,
                    .requests_running = 3,
                    .requests_waiting = 4,
                    .backlog_tokens = 55,
                    .log_bytes = 77});
  metrics.OnSessionOpened();
  metrics.OnSessionClosed(service::CloseReason::kIdle, 1000);
  metrics.OnAppended(10);
  metrics.OnReused(90);
  metrics.OnDuplicate(6);
  metrics.OnAppendAck(absl::Seconds(1));
  metrics.OnQueueTime(absl::Seconds(2));
  metrics.OnGenerated(true, absl::Seconds(3));
  metrics.OnGenerated(false, absl::Seconds(4));
  metrics.OnRejected(service::Reason::kQueueFull);
  metrics.OnUnknownFields(2);
  metrics.OnConnections(9);
  metrics.OnConnectionRefused();

  const Page page(metrics.Page());
  const std::pair<const char*, double> expected[] = {
      {"weir_batch_size_sum", 3},
      {"weir_batch_tokens_sum", 5},
      {"weir_step_duration_seconds_sum{phase=\"decode\"}", 0.002},
      {"weir_step_duration_seconds_count{phase=\"mixed\"}", 0},
      {"weir_state_slots{state=\"used\"}", 2},
      {"weir_state_slots{state=\"free\"}", 6},
      {"weir_state_pool_usage_ratio", 0.25},
      {"weir_state_pool_capacity_bytes{tier=\"device\"}", 800},
      {"weir_state_pool_used_bytes{tier=\"device\"}", 200},
      {"weir_sessions", 2},
      {"weir_requests_waiting", 4},
      {"weir_requests_running", 3},
      {"weir_backlog_tokens", 55},
      {"weir_log_bytes", 77},
      {"weir_log_capacity_bytes", 512 << 20},
      {"weir_sessions_created_total", 1},
      {"weir_sessions_closed_total{reason=\"idle\"}", 1},
      {"weir_sessions_closed_total{reason=\"client\"}", 0},
      {"weir_session_length_tokens_sum", 1000},
      {"weir_prompt_tokens_total", 10},
      {"weir_reused_tokens_total", 90},
      {"weir_duplicate_tokens_total", 6},
      {"weir_append_ack_seconds_sum", 1},
      {"weir_queue_time_seconds_sum", 2},
      {"weir_time_to_first_token_seconds_sum", 3},
      {"weir_inter_token_latency_seconds_sum", 4},
      {"weir_generation_tokens_total", 2},
      {"weir_errors_total{reason=\"QUEUE_FULL\"}", 1},
      {"weir_unknown_fields_total", 2},
      {"weir_connections", 9},
      {"weir_connections_refused_total", 1}};
  for (const auto& [key, value] : expected) {
    const auto found = page.series.find(key);
    ASSERT_NE(found, page.series.end()) << key;
    EXPECT_DOUBLE_EQ(found->second, value) << key;
  }
}

TEST(MetricsTest, CallsAreCountedByMethodAndCode) {
  Metrics metrics(kRpcs);
  const std::string labels =
      "grpc_method=\"Stream\",grpc_service=\"weir.v1.Sessions\","
      "grpc_type=\"bidi_stream\"}";

  metrics.OnRpcStarted(1, RpcShape::kStream);
  EXPECT_EQ(Value(metrics, "weir_streams_open"), 1);
  metrics.OnMessageReceived(1);
  metrics.OnMessageSent(1);
  metrics.OnMessageSent(1);
  metrics.OnRpcDone(
      1, RpcShape::kStream, absl::StatusCode::kAborted, absl::Seconds(1));

  EXPECT_EQ(Value(metrics, "weir_streams_open"), 0);
  EXPECT_EQ(Value(metrics, "grpc_server_started_total{" + labels), 1);
  EXPECT_EQ(Value(metrics, "grpc_server_msg_received_total{" + labels), 1);
  EXPECT_EQ(Value(metrics, "grpc_server_msg_sent_total{" + labels), 2);
  EXPECT_EQ(Value(metrics, "grpc_server_handling_seconds_sum{" + labels), 1);
  EXPECT_EQ(Value(metrics,
                  "grpc_server_handled_total{grpc_code=\"Aborted\"," + labels),
            1);
}

TEST(MetricsTest, CallsOfOneRequestAreTimed) {
  Metrics metrics(kRpcs);
  for (const RpcShape shape : {RpcShape::kUnary,
                               RpcShape::kGenerate,
                               RpcShape::kStream,
                               RpcShape::kRefused}) {
    metrics.OnRpcStarted(0, shape);
    metrics.OnRpcDone(0, shape, absl::StatusCode::kOk, absl::Seconds(2));
  }

  EXPECT_EQ(Value(metrics, "weir_request_duration_seconds_count"), 2);
  EXPECT_EQ(Value(metrics, "weir_request_duration_seconds_sum"), 4);
  EXPECT_EQ(Value(metrics, "weir_streams_open"), 0);
}

TEST(MetricsTest, TheProcessIsSeenAsTheKernelSeesIt) {
  Metrics metrics(kRpcs);

  EXPECT_GT(Value(metrics, "process_resident_memory_bytes"), 1e6);
  EXPECT_GE(Value(metrics, "process_threads"), 1);
  EXPECT_GT(Value(metrics, "process_open_fds"), 2);
  EXPECT_NEAR(Value(metrics, "process_start_time_seconds"),
              static_cast<double>(time(nullptr)),
              600);
}

// promtool is the judge where it is installed; the rules above hold anywhere.
TEST(MetricsTest, PromtoolFindsNothingIfItIsInstalled) {
  if (std::system("command -v promtool >/dev/null") != 0) return;
  Metrics metrics(kRpcs);
  metrics.SetServed(MakeServed());
  FILE* const promtool = popen("promtool check metrics", "w");
  ASSERT_NE(promtool, nullptr);
  const std::string page = metrics.Page();
  ASSERT_EQ(fwrite(page.data(), 1, page.size(), promtool), page.size());

  EXPECT_EQ(pclose(promtool), 0);
}

}  // namespace
}  // namespace weir::server
