// SPDX-License-Identifier: Apache-2.0
//
// A session and everything that waits for it. All calls that have not been
// answered live here, never inside a store's callback, so that a close, a
// fault or a stop can answer them at once.
//
// Threads: owned by the step thread.
#pragma once

#include <array>
#include <cstdint>
#include <deque>
#include <list>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "service/call.h"
#include "service/records.h"

namespace weir::service {

// An append on its way. Its tokens from `duplicates` on are new.
struct PendingAppend {
  explicit PendingAppend(AppendCall asked) : call(std::move(asked)) {}

  // Where its first new token stands.
  uint64_t begin() const { return call.request.expected_position + duplicates; }
  uint64_t end() const {
    return call.request.expected_position + call.request.tokens.size();
  }

  AppendCall call;
  uint64_t duplicates = 0;    // tokens that are known to equal the log's
  std::vector<float> scores;  // with want_scores: of the new tokens
  bool started = false;       // has had a row
};

// What is known of a generation for as long as it may be resumed.
struct GenerationRecord {
  std::string request_id;
  uint64_t start = 0;
  uint64_t end = 0;  // of the logged tokens
  uint32_t tokens_max = 0;
  uint64_t seed = 0;
  SamplingRequest sampling;
  std::vector<std::string> stop_strings;
  std::vector<uint32_t> stop_tokens;
  bool want_log_probs = false;
  Durability durability = Durability::kApplied;
  FinishReason finish = FinishReason::kNone;
};

// A running generation.
struct Generation {
  enum class Phase {
    kReplaying,   // sends tokens that are logged already
    kLooking,     // reads the tokens that a repetition penalty needs
    kRunning,     // wants a row
    kCommitting,  // has drawn a token and waits for its commit
  };

  explicit Generation(GenerateCall asked) : call(std::move(asked)) {}

  // Passes on what was held.
  void SendHeld() {
    for (GenerateEvent& event : held) {
      if (call.request.on_event) call.request.on_event(std::move(event));
    }
    held.clear();
  }

  GenerateCall call;
  std::shared_ptr<GenerationRecord> record;
  Phase phase = Phase::kRunning;
  uint64_t ticket = 0;       // tells its reads from those of another one
  bool reading = false;      // a read is under way
  uint64_t replay_next = 0;  // kReplaying: the next position to read
  uint64_t send_from = 0;    // kReplaying: where the client's part begins
  // The token in hand: drawn, and not yet in the state.
  std::optional<uint32_t> token;
  float log_prob = 0;
  std::vector<uint32_t> recent;  // the last 1,024 tokens, for the penalty
  // Tokens that are logged and go to the caller while the next step runs.
  std::vector<GenerateEvent> held;
  // Set when it shall end; the token in hand is consumed first.
  std::optional<GenerateEvent> last_event;
  absl::Status ending;
  // Since when the caller has passed nothing on.
  std::optional<absl::Duration> paused_since;
  int32_t unsent_seen = 0;
  std::optional<absl::Duration> token_time;  // of the token before
  bool started = false;                      // has had a row
};

// A fork that waits until its position is in the state and in the log.
struct PendingFork {
  std::vector<ForkCall> calls;  // the first, and those of the same request_id
  std::string new_id;
  uint64_t position = 0;
};

// A fork that was made, for as long as its request may be repeated.
struct ForkRecord {
  std::string new_id;
  uint64_t position = 0;
  bool failed = false;  // its rebuild ended early: it may be made again
};

// A state that is being rebuilt from its log; held by the copy.
struct Rebuild {
  uint64_t target = 0;
  LogSlice chunk;  // what is fed to the state next
  bool reading = false;
  std::shared_ptr<ForkRecord> record;
  std::vector<ForkCall> calls;
};

struct Session {
  // Whether it may not expire: something waits for it.
  bool pending() const {
    return has_appends() || generation != nullptr || !forks.empty() ||
           rebuild != nullptr;
  }
  bool has_appends() const {
    return !arriving.empty() || comparing != nullptr || !to_apply.empty() ||
           !settling.empty() || !reading.empty();
  }
  uint64_t committed() const { return done[0]; }
  // Tokens that shall be fed to the state and have not been.
  int64_t backlog() const {
    if (closed || quarantined) return 0;
    return static_cast<int64_t>(accepted - applied);
  }

  // Constant after construction.
  std::string id;
  uint64_t serial = 0;  // of this server's life, in the order of opening
  uint64_t seed = 0;
  absl::Duration idle_timeout;
  int32_t slot = -1;

  uint64_t accepted = 0;  // the position that clients see
  uint64_t applied = 0;   // tokens in the state; at most `accepted`
  // By level: how far commits have been asked for, and have been done.
  std::array<uint64_t, 3> requested{};
  std::array<uint64_t, 3> done{};
  // Where each failed commit has taken the end back to: records after it that
  // were under way then are void.
  std::vector<uint64_t> recessions;
  uint64_t scored_tokens = 0;
  double sum_log_prob = 0;
  absl::Duration last_request;
  std::optional<absl::Duration> idle_check;  // its entry in the idle queue
  bool dirty = false;                        // is in the list of dirty ones
  int64_t counted_backlog = 0;               // in the sum of all
  bool closed = false;
  bool quarantined = false;
  uint64_t last_good = 0;

  // An append moves through these in this order; a duplicate skips to_apply.
  // They are decided one after the other, so that those sent behind one that
  // must be compared first find the end where it leaves it.
  uint64_t next_ticket = 0;
  std::deque<std::unique_ptr<PendingAppend>> arriving;
  std::unique_ptr<PendingAppend> comparing;
  std::deque<std::unique_ptr<PendingAppend>> to_apply;
  std::list<std::unique_ptr<PendingAppend>> settling;
  absl::flat_hash_map<uint64_t, std::unique_ptr<PendingAppend>> reading;

  std::unique_ptr<Generation> generation;
  Records<std::shared_ptr<GenerationRecord>> generations;

  std::vector<PendingFork> forks;  // of which this is the original
  Records<std::shared_ptr<ForkRecord>> fork_records;
  std::unique_ptr<Rebuild> rebuild;
};

using SessionPtr = std::shared_ptr<Session>;

}  // namespace weir::service
