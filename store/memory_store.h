// SPDX-License-Identifier: Apache-2.0
//
// Logs in host memory, gone with the process: APPLIED and nothing better.
//
// A log is a list of blocks of 1,024 tokens, with a block of scores beside
// those of which a score was put. Forks share blocks; a shared one is copied
// before it is written to.
//
// Threads: MemoryBytes from any; all else from the step thread. Every call
// answers before it returns.
#pragma once

#include <array>
#include <atomic>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "service/store.h"

namespace weir::store {

class MemoryStore final : public service::Store {
 public:
  static constexpr uint64_t kBlockTokens = 1024;

  bool Supports(service::Durability durability) const override;
  absl::Status Create(const std::string& session_id) override;
  absl::Status Fork(const std::string& from,
                    uint64_t position,
                    const std::string& to) override;
  void Erase(const std::string& session_id) override;
  // FAILED_PRECONDITION for a level that is not supported and for a record
  // that does not begin at its log's end; NOT_FOUND.
  void Commit(std::vector<service::LogRecord> records,
              service::Durability durability,
              Done done) override;
  void PutScores(service::ScoreRecord record) override;
  void Read(const std::string& session_id,
            uint64_t position,
            uint64_t count,
            ReadDone done) override;
  uint64_t MemoryBytes() const override;

 private:
  // One value a token; counts its bytes while it lives.
  template <typename Value>
  struct Block {
    Block(std::atomic<uint64_t>* counter, Value value) : bytes(counter) {
      values.fill(value);
      *bytes += sizeof(values);
    }
    Block(const Block& other) : values(other.values), bytes(other.bytes) {
      *bytes += sizeof(values);
    }
    Block& operator=(const Block&) = delete;
    ~Block() { *bytes -= sizeof(values); }

    std::array<Value, kBlockTokens> values;
    std::atomic<uint64_t>* const bytes;
  };

  struct Blocks {
    std::shared_ptr<Block<uint32_t>> tokens;
    std::shared_ptr<Block<float>> scores;  // null: none was put
  };
  struct Log {
    uint64_t size = 0;
    std::vector<Blocks> blocks;
  };

  // The block for writing: made, or taken out of sharing.
  template <typename Value>
  Block<Value>& Own(std::shared_ptr<Block<Value>>& block, Value fill);
  absl::Status CheckRecords(
      const std::vector<service::LogRecord>& records) const;
  void Extend(Log& log, const std::vector<uint32_t>& tokens);

  // From any thread; outlives the blocks.
  std::atomic<uint64_t> bytes_ = 0;
  // Owned by the step thread.
  absl::flat_hash_map<std::string, Log> logs_;
};

}  // namespace weir::store
