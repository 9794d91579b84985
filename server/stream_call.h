// SPDX-License-Identifier: Apache-2.0
//
// A Stream call: items run in the order in which they come. Appends are
// pipelined; a generation waits for what came before it and holds what comes
// after. Of what it holds one item is read, and nothing while the answers that
// have not left, or will come, are many or large.
//
// Threads: as Call.
#pragma once

#include <cstdint>
#include <deque>
#include <memory>
#include <mutex>

#include "server/call.h"

namespace weir::server {

class StreamCall final : public Call {
 public:
  using Call::Call;

  void OnReadDone(bool ok) override;
  void OnStopping() override;

 private:
  void Start() override;
  void OnSent() override { Advance(); }

  // Starts the items that may start, reads on, or ends the call. The service
  // is called here alone, on gRPC's threads, by one of them at a time.
  void Advance();
  // True if there was one.
  bool StartNext();
  void ReadOrEnd();
  // `answer_bytes`: of the item's answer, as AnswerBytes has it.
  void StartItem(StreamItem item, size_t answer_bytes);
  void StartAppend(uint64_t item_id,
                   bool want_progress,
                   service::AppendRequest,
                   size_t answer_bytes);
  void StartGenerate(uint64_t item_id, service::GenerateRequest);
  // The last answer to an item.
  void Answer(const grpc::ByteBuffer& message,
              bool generated,
              size_t answer_bytes);

  std::shared_ptr<StreamCall> Self() {
    return std::static_pointer_cast<StreamCall>(shared_from_this());
  }

  grpc::ByteBuffer incoming_;

  // Call's mutex may be taken while it is held, never the other way round.
  std::mutex items_mutex_;
  // Guarded by items_mutex_.
  std::deque<StreamItem> waiting_;
  int32_t running_ = 0;
  size_t running_bytes_ = 0;  // of the answers to those that run
  bool generating_ = false;
  bool reading_ = false;
  bool read_all_ = false;
  bool stopping_ = false;
  bool advancing_ = false;
  bool again_ = false;
  absl::Status end_;  // how the call ends once all items have been answered
};

}  // namespace weir::server
