// SPDX-License-Identifier: Apache-2.0
#include "client/top_view.h"

#include <algorithm>
#include <cmath>
#include <vector>

#include "client/format.h"
#include "client/utf8.h"

namespace weir::client {
namespace {

struct Latency {
  const char* title;
  const char* metric;
};
constexpr Latency kLatencies[] = {
    {"step", "weir_step_duration_seconds"},
    {"append", "weir_append_ack_seconds"},
    {"queue", "weir_queue_time_seconds"},
    {"first token", "weir_time_to_first_token_seconds"},
    {"next token", "weir_inter_token_latency_seconds"},
    {"request", "weir_request_duration_seconds"},
};

// The two readings as one interval.
class Interval {
 public:
  Interval(const Reading& now, const Reading* before)
      : now_(now), before_(before) {}

  double seconds() const {
    if (before_ != nullptr) {
      return absl::ToDoubleSeconds(now_.time - before_->time);
    }
    const double started = now_.page.Sum("process_start_time_seconds");
    if (started <= 0) return std::nan("");
    return absl::ToDoubleSeconds(now_.time - absl::UnixEpoch()) - started;
  }
  // A counter's growth; what there is of it if the server has restarted.
  double Grown(std::string_view name, const Labels& labels = {}) const {
    const double now = now_.page.Sum(name, labels);
    const double before =
        before_ == nullptr ? 0 : before_->page.Sum(name, labels);
    return now >= before ? now - before : now;
  }
  double Rate(std::string_view name) const { return Grown(name) / seconds(); }
  Histogram HistogramOf(std::string_view name) const {
    const Histogram now = now_.page.HistogramOf(name);
    return before_ == nullptr ? now
                              : now.Since(before_->page.HistogramOf(name));
  }

 private:
  const Reading& now_;
  const Reading* const before_;
};

std::string Gauge(const MetricsPage& page,
                  std::string_view name,
                  const Labels& labels = {}) {
  const double value = page.Sum(name, labels, std::nan(""));
  return std::isnan(value) ? "-"
                           : FormatCount(static_cast<uint64_t>(
                                 std::max(0.0, std::round(value))));
}

std::string Bytes(const MetricsPage& page, std::string_view name) {
  const double value = page.Sum(name, {}, std::nan(""));
  return std::isnan(value)
             ? "-"
             : FormatBytes(static_cast<uint64_t>(std::max(0.0, value)));
}

std::string OrDash(double value) {
  return std::isfinite(value) ? FormatRate(value) : "-";
}

std::string Line(std::string name, const std::string& text) {
  name.resize(10, ' ');
  return name + text + "\n";
}

// Reasons that have been counted, the most frequent first.
std::vector<std::pair<std::string, double>> Errors(const MetricsPage& page) {
  std::vector<std::pair<std::string, double>> errors;
  for (const Sample& sample : page.Samples("weir_errors_total")) {
    const auto reason = sample.labels.find("reason");
    if (reason != sample.labels.end() && sample.value > 0) {
      errors.emplace_back(reason->second, sample.value);
    }
  }
  std::stable_sort(
      errors.begin(), errors.end(), [](const auto& a, const auto& b) {
        return a.second > b.second;
      });
  return errors;
}

std::string DescribeErrors(const MetricsPage& page) {
  std::string text;
  for (const auto& [reason, count] : Errors(page)) {
    text += (text.empty() ? "" : ", ") + reason + " " +
            FormatCount(static_cast<uint64_t>(count));
  }
  return text.empty() ? "none" : text;
}

std::string LatencyTable(const Interval& interval) {
  std::vector<std::vector<std::string>> rows = {
      {"LATENCY", "P50", "P99", "MEAN", "COUNT"}};
  for (const Latency& latency : kLatencies) {
    const Histogram histogram = interval.HistogramOf(latency.metric);
    rows.push_back({latency.title,
                    FormatLatency(histogram.Quantile(0.5)),
                    FormatLatency(histogram.Quantile(0.99)),
                    FormatLatency(histogram.Mean()),
                    FormatCount(static_cast<uint64_t>(histogram.count))});
  }
  return FormatTable(rows);
}

std::string HeadLine(const MetricsPage& page,
                     const std::string& address,
                     absl::Time time) {
  const double started = page.Sum("process_start_time_seconds");
  std::string head =
      "weir " + page.Label("weir_build_info", "version") + " at " + address;
  const std::string model = page.Label("weir_model_info", "model_name");
  if (!model.empty()) head += ", model " + model;
  if (started > 0) {
    head += ", up " +
            FormatClock(time - absl::UnixEpoch() - absl::Seconds(started));
  }
  return head + "\n";
}

}  // namespace

std::string RenderTop(const Reading& now,
                      const Reading* before,
                      const std::string& address,
                      int width) {
  const Interval interval(now, before);
  const MetricsPage& page = now.page;
  const Histogram batch = interval.HistogramOf("weir_batch_size");
  const Histogram tokens = interval.HistogramOf("weir_batch_tokens");
  const Histogram steps = interval.HistogramOf("weir_step_duration_seconds");
  std::string text =
      HeadLine(page, address, now.time) +
      (before == nullptr ? "rates since its start\n\n"
                         : "rates of the last " +
                               FormatFixed(interval.seconds(), 1) + " s\n\n");
  text += Line("sessions",
               Gauge(page, "weir_sessions") + " open, " +
                   Gauge(page, "weir_sessions_created_total") +
                   " opened since start");
  text +=
      Line("slots",
           Gauge(page, "weir_state_slots", {{"state", "used"}}) + " used, " +
               Gauge(page, "weir_state_slots", {{"state", "free"}}) +
               " free, " + Bytes(page, "weir_state_pool_used_bytes") + " of " +
               Bytes(page, "weir_state_pool_capacity_bytes"));
  text += Line("requests",
               Gauge(page, "weir_requests_running") + " running, " +
                   Gauge(page, "weir_requests_waiting") + " waiting, " +
                   Gauge(page, "weir_streams_open") + " streams");
  text +=
      Line("tokens",
           OrDash(interval.Rate("weir_prompt_tokens_total")) + " appended/s, " +
               OrDash(interval.Rate("weir_generation_tokens_total")) +
               " generated/s");
  text += Line("steps",
               OrDash(steps.count / interval.seconds()) + " /s, " +
                   OrDash(batch.Mean()) + " rows and " + OrDash(tokens.Mean()) +
                   " tokens a step");
  text += Line("memory",
               Bytes(page, "process_resident_memory_bytes") + " resident");
  text += Line("errors", DescribeErrors(page)) + "\n";
  text += LatencyTable(interval);
  std::string cut;
  for (size_t at = 0; at < text.size();) {
    const size_t newline = text.find('\n', at);
    cut += CutToColumns(ForTerminal(ToValidUtf8(text.substr(at, newline - at))),
                        width) +
           "\n";
    at = newline + 1;
  }
  return cut;
}

nlohmann::ordered_json TopJson(const Reading& now, const Reading* before) {
  const Interval interval(now, before);
  const MetricsPage& page = now.page;
  const Histogram steps = interval.HistogramOf("weir_step_duration_seconds");
  // NaN is written as null.
  nlohmann::ordered_json json = {
      {"sessions", page.Sum("weir_sessions")},
      {"slots_used", page.Sum("weir_state_slots", {{"state", "used"}})},
      {"slots_free", page.Sum("weir_state_slots", {{"state", "free"}})},
      {"requests_running", page.Sum("weir_requests_running")},
      {"requests_waiting", page.Sum("weir_requests_waiting")},
      {"streams_open", page.Sum("weir_streams_open")},
      {"interval_seconds", interval.seconds()},
      {"appended_tokens_per_second", interval.Rate("weir_prompt_tokens_total")},
      {"generated_tokens_per_second",
       interval.Rate("weir_generation_tokens_total")},
      {"steps_per_second", steps.count / interval.seconds()},
      {"batch_rows", interval.HistogramOf("weir_batch_size").Mean()},
      {"batch_tokens", interval.HistogramOf("weir_batch_tokens").Mean()},
      {"resident_bytes", page.Sum("process_resident_memory_bytes")}};
  for (const Latency& latency : kLatencies) {
    const Histogram histogram = interval.HistogramOf(latency.metric);
    json["latency_seconds"][latency.title] = {{"p50", histogram.Quantile(0.5)},
                                              {"p99", histogram.Quantile(0.99)},
                                              {"mean", histogram.Mean()},
                                              {"count", histogram.count}};
  }
  json["errors"] = nlohmann::ordered_json::object();
  for (const auto& [reason, count] : Errors(page)) {
    json["errors"][reason] = count;
  }
  return json;
}

}  // namespace weir::client
