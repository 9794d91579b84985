// SPDX-License-Identifier: Apache-2.0
#include "store/memory_store.h"

#include <algorithm>
#include <limits>
#include <utility>

namespace weir::store {
namespace {

using service::Durability;
using service::LogRecord;
using service::LogSlice;
using service::ScoreRecord;

constexpr float kNoScore = std::numeric_limits<float>::quiet_NaN();

absl::Status NoLog() { return absl::NotFoundError("no log of this session"); }

}  // namespace

bool MemoryStore::Supports(Durability durability) const {
  return durability == Durability::kApplied;
}

absl::Status MemoryStore::Create(const std::string& session_id) {
  if (!logs_.try_emplace(session_id).second) {
    return absl::AlreadyExistsError("a log of this session is there");
  }
  return absl::OkStatus();
}

absl::Status MemoryStore::Fork(const std::string& from,
                               uint64_t position,
                               const std::string& to) {
  const auto source = logs_.find(from);
  if (source == logs_.end()) return NoLog();
  if (position > source->second.size) {
    return absl::OutOfRangeError("the log ends before this position");
  }
  if (logs_.contains(to)) {
    return absl::AlreadyExistsError("a log of this session is there");
  }
  Log copy;
  copy.size = position;
  const uint64_t blocks = (position + kBlockTokens - 1) / kBlockTokens;
  copy.blocks.assign(source->second.blocks.begin(),
                     source->second.blocks.begin() + blocks);
  // Scores after the fork are the original's alone.
  const uint64_t used = position % kBlockTokens;
  if (used != 0 && copy.blocks.back().scores != nullptr) {
    Block<float>& last = Own(copy.blocks.back().scores, kNoScore);
    std::fill(last.values.begin() + used, last.values.end(), kNoScore);
  }
  logs_.emplace(to, std::move(copy));
  return absl::OkStatus();
}

void MemoryStore::Erase(const std::string& session_id) {
  logs_.erase(session_id);
}

absl::Status MemoryStore::CheckRecords(
    const std::vector<LogRecord>& records) const {
  absl::flat_hash_map<std::string, uint64_t> ends;
  for (const LogRecord& record : records) {
    const auto log = logs_.find(record.session_id);
    if (log == logs_.end()) return NoLog();
    uint64_t& end =
        ends.try_emplace(record.session_id, log->second.size).first->second;
    if (record.position != end) {
      return absl::FailedPreconditionError(
          "a record does not begin at its log's end");
    }
    end += record.tokens.size();
  }
  return absl::OkStatus();
}

void MemoryStore::Commit(std::vector<LogRecord> records,
                         Durability durability,
                         Done done) {
  absl::Status status =
      Supports(durability)
          ? CheckRecords(records)
          : absl::FailedPreconditionError("a level that memory cannot reach");
  if (status.ok()) {
    for (const LogRecord& record : records) {
      Extend(logs_.at(record.session_id), record.tokens);
    }
  }
  std::move(done)(std::move(status));
}

void MemoryStore::Extend(Log& log, const std::vector<uint32_t>& tokens) {
  for (size_t i = 0; i < tokens.size();) {
    const uint64_t offset = log.size % kBlockTokens;
    if (offset == 0) log.blocks.emplace_back();
    Block<uint32_t>& block = Own(log.blocks.back().tokens, uint32_t{0});
    const uint64_t count =
        std::min<uint64_t>(kBlockTokens - offset, tokens.size() - i);
    std::copy_n(tokens.begin() + i, count, block.values.begin() + offset);
    log.size += count;
    i += count;
  }
}

void MemoryStore::PutScores(ScoreRecord record) {
  const auto found = logs_.find(record.session_id);
  if (found == logs_.end()) return;
  Log& log = found->second;
  if (record.position >= log.size) return;
  const uint64_t scores =
      std::min<uint64_t>(record.scores.size(), log.size - record.position);
  for (uint64_t i = 0; i < scores;) {
    const uint64_t at = record.position + i;
    const uint64_t offset = at % kBlockTokens;
    Block<float>& block = Own(log.blocks[at / kBlockTokens].scores, kNoScore);
    const uint64_t count = std::min(kBlockTokens - offset, scores - i);
    std::copy_n(
        record.scores.begin() + i, count, block.values.begin() + offset);
    i += count;
  }
}

void MemoryStore::Read(const std::string& session_id,
                       uint64_t position,
                       uint64_t count,
                       ReadDone done) {
  const auto found = logs_.find(session_id);
  if (found == logs_.end()) {
    std::move(done)(NoLog());
    return;
  }
  const Log& log = found->second;
  LogSlice slice;
  slice.position = position;
  const uint64_t end =
      position < log.size ? position + std::min(count, log.size - position) : 0;
  for (uint64_t at = position; at < end;) {
    const Blocks& blocks = log.blocks[at / kBlockTokens];
    const uint64_t offset = at % kBlockTokens;
    const uint64_t part = std::min(kBlockTokens - offset, end - at);
    const auto tokens = blocks.tokens->values.begin() + offset;
    slice.tokens.insert(slice.tokens.end(), tokens, tokens + part);
    if (blocks.scores != nullptr) {
      const auto scores = blocks.scores->values.begin() + offset;
      slice.scores.insert(slice.scores.end(), scores, scores + part);
    } else {
      slice.scores.insert(slice.scores.end(), part, kNoScore);
    }
    at += part;
  }
  std::move(done)(std::move(slice));
}

uint64_t MemoryStore::MemoryBytes() const { return bytes_; }

template <typename Value>
MemoryStore::Block<Value>& MemoryStore::Own(
    std::shared_ptr<Block<Value>>& block, Value fill) {
  if (block == nullptr) {
    block = std::make_shared<Block<Value>>(&bytes_, fill);
  } else if (block.use_count() > 1) {
    block = std::make_shared<Block<Value>>(*block);
  }
  return *block;
}

}  // namespace weir::store
