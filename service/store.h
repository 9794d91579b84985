// SPDX-License-Identifier: Apache-2.0
//
// Where logs rest: the seam between the service and its stores.
//
// The log of a session is its tokens and, beside them, the scores that were
// asked for. It is the write-ahead log; the state is a checkpoint of it.
//
// Threads: all calls from the step thread, which never waits for them; a call
// may answer before it returns or later, on a thread of the store. Each
// callback is called exactly once, at the latest when the store is destroyed.
// Calls take effect in the order in which they are made: a Read sees every
// Commit before it.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "absl/functional/any_invocable.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace weir::service {

// How far a token is safe.
enum class Durability { kApplied, kLocal, kShared };

// Tokens to log, in the order in which they were accepted. A record without
// tokens asks that all before its position reach the commit's level.
struct LogRecord {
  std::string session_id;
  uint64_t position = 0;  // of the first token: the log's end
  std::vector<uint32_t> tokens;
};

// Scores of logged tokens; a NaN is "not asked for".
struct ScoreRecord {
  std::string session_id;
  uint64_t position = 0;  // of the first score
  std::vector<float> scores;
};

// A stretch of a log.
struct LogSlice {
  uint64_t position = 0;
  std::vector<uint32_t> tokens;
  std::vector<float> scores;  // as many; NaN where none was asked for
};

class Store {
 public:
  using Done = absl::AnyInvocable<void(absl::Status) &&>;
  using ReadDone = absl::AnyInvocable<void(absl::StatusOr<LogSlice>) &&>;

  virtual ~Store() = default;

  // Whether Commit can reach this level.
  virtual bool Supports(Durability durability) const = 0;

  // Starts an empty log. ALREADY_EXISTS if there is one.
  virtual absl::Status Create(const std::string& session_id) = 0;
  // Starts `to` as a copy of the first `position` tokens of `from`.
  virtual absl::Status Fork(const std::string& from,
                            uint64_t position,
                            const std::string& to) = 0;
  // Deletes a log. Reads of it that are under way end with NOT_FOUND.
  virtual void Erase(const std::string& session_id) = 0;

  // Logs all the records in one commit, at `durability`; all or none.
  virtual void Commit(std::vector<LogRecord> records,
                      Durability durability,
                      Done done) = 0;
  // Puts scores beside logged tokens. Those beyond the log's end are dropped:
  // the commit of their tokens has failed.
  virtual void PutScores(ScoreRecord record) = 0;
  // Reads up to `count` tokens from `position` on.
  virtual void Read(const std::string& session_id,
                    uint64_t position,
                    uint64_t count,
                    ReadDone done) = 0;

  // Bytes that the logs take in host memory. From any thread.
  virtual uint64_t MemoryBytes() const = 0;
};

}  // namespace weir::service
