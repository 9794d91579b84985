// SPDX-License-Identifier: Apache-2.0
//
// What clients ask of the service and what it answers, as plain values. Fields
// mean what the messages of proto/weir/v1 say; limits are checked here again.
//
// Threads: plain values, moved from thread to thread; what is shared says so.
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/functional/any_invocable.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "service/limits.h"
#include "service/store.h"

namespace weir::service {

// A caller's hold on its request: it may be cancelled until it is accepted,
// and a generation until its end. Shared by the caller's thread and the step
// thread.
struct CallState {
  std::atomic<bool> cancelled = false;
  // Generated events that the caller has not passed on yet; the service pauses
  // a generation at Limits::unsent_events_max.
  std::atomic<int32_t> unsent = 0;
  // The call ends because its client reads too slowly, and that has been
  // counted by whoever set it: nothing that follows from it is counted.
  std::atomic<bool> slow = false;
};

// What every request carries.
struct CallContext {
  // By Clock::Now(); a request that is not accepted by then is dropped.
  absl::Duration deadline = absl::InfiniteDuration();
  std::shared_ptr<CallState> call = {};  // may be null: cannot be cancelled
};

// Called exactly once, on the step thread (or on the caller's, for a refusal
// at the door). Short: it must not wait, and it may not call the service back.
template <typename T>
using Completion = absl::AnyInvocable<void(absl::StatusOr<T>) &&>;

struct SessionInfo {
  std::string session_id;
  uint64_t position = 0;
  uint64_t applied_position = 0;
  uint64_t epoch = 1;
  uint64_t scored_tokens = 0;
  double sum_log_prob = 0;
  uint64_t seed = 0;
  absl::Duration idle_timeout;
  absl::Duration idle;
  bool generating = false;
  bool quarantined = false;
};

struct OpenRequest {
  std::string session_id;  // empty: issued
  std::optional<uint64_t> seed = {};
  std::optional<absl::Duration> idle_timeout = {};
};
struct OpenResult {
  SessionInfo session;
  bool created = false;
};

struct GetRequest {
  std::string session_id;
};
struct ListRequest {
  int32_t page_size = 0;
  std::string after;  // ids greater than this one; empty: from the first
};
struct ListResult {
  std::vector<SessionInfo> sessions;
  bool more = false;
};

struct CloseRequest {
  std::string session_id;
};
struct CloseResult {
  bool closed = false;
  uint64_t position = 0;
};

struct AppendRequest {
  std::string session_id;
  uint64_t expected_position = 0;
  std::vector<uint32_t> tokens;
  bool want_scores = false;
  Durability durability = Durability::kApplied;
  // If set: called on the step thread with the applied position after each of
  // this append's rows but the last.
  absl::AnyInvocable<void(uint64_t applied_position, uint64_t end_position)>
      on_progress;
};
struct AppendResult {
  uint64_t position = 0;
  bool duplicate = false;
  uint64_t duplicate_tokens = 0;
  std::vector<float> scores;
  uint64_t local_position = 0;
  uint64_t shared_position = 0;
  uint64_t epoch = 1;
};

struct SamplingRequest {
  float temperature = 1;
  int32_t top_k = 0;
  float top_p = 1;
  float min_p = 0;
  float repetition_penalty = 1;
  std::optional<uint64_t> seed = {};
};

enum class FinishReason { kNone, kLength, kStop, kInterrupted };

// Some tokens of a generation.
struct GenerateEvent {
  std::vector<uint32_t> tokens;
  std::string text;              // valid UTF-8; empty if the model has no text
  std::vector<float> log_probs;  // with want_log_probs
  uint64_t position = 0;
  FinishReason finish = FinishReason::kNone;
  std::string stop_string;
  bool duplicate = false;
  uint64_t epoch = 1;
  uint32_t max_tokens = 0;
};

// Turns tokens to text as they come and looks for stop strings; made by the
// server for each generation, because the service knows no tokenizer. Called
// on the step thread.
class TextSink {
 public:
  virtual ~TextSink() = default;
  // What ends the text. Once, before the first Push.
  virtual void StopAt(const std::vector<std::string>& stop_strings) = 0;
  // Adds a token; returns the text that can be shown now.
  virtual std::string Push(uint32_t token) = 0;
  // Text held back for an unfinished character or a possible stop string.
  virtual std::string Flush() = 0;
  // The stop string that the text ends with, after a Push that found one.
  virtual const std::string* stop() const = 0;
};

struct GenerateRequest {
  std::string session_id;
  std::optional<uint64_t> expected_position = {};
  std::string request_id;
  uint32_t max_tokens = 0;
  SamplingRequest sampling;
  std::vector<std::string> stop_strings;  // for `text`
  std::vector<uint32_t> stop_tokens;
  bool want_log_probs = false;
  Durability durability = Durability::kApplied;
  std::unique_ptr<TextSink> text;  // null: tokens only
  // Called on the step thread for each event; the last has a finish reason. It
  // adds to CallState::unsent before it returns, and takes off again when the
  // event has been passed on; then, if unsent was Limits::unsent_events_max or
  // more, it calls Service::Wake().
  absl::AnyInvocable<void(GenerateEvent)> on_event;
};
// After the last event, or instead of it.
struct GenerateResult {};

struct ForkRequest {
  std::string session_id;
  std::string new_session_id;  // empty: issued
  std::string request_id;
  std::optional<uint64_t> position = {};
  std::optional<uint64_t> seed = {};
};
struct ForkResult {
  std::string session_id;
  uint64_t position = 0;
  uint64_t epoch = 1;
  bool duplicate = false;
};

// What the service is doing, for GetServerInfo. A copy from between two steps.
struct ServiceInfo {
  int32_t slots = 0;
  int32_t slots_free = 0;
  int64_t sessions = 0;
};

}  // namespace weir::service
