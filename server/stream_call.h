// SPDX-License-Identifier: Apache-2.0
//
// A Stream call: items run in the order in which they come. Appends are
// pipelined; a generation waits for what came before it and holds what comes
// after. What the client sends beyond a limit is not read until answers have
// left.
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
  void StartItem(StreamItem item);
  void StartAppend(uint64_t item_id,
                   bool want_progress,
                   service::AppendRequest);
  void StartGenerate(uint64_t item_id, service::GenerateRequest);
  // The last answer to an item.
  void Answer(const grpc::ByteBuffer& message, bool generated);

  std::shared_ptr<StreamCall> Self() {
    return std::static_pointer_cast<StreamCall>(shared_from_this());
  }

  grpc::ByteBuffer incoming_;

  // Call's mutex may be taken while it is held, never the other way round.
  std::mutex items_mutex_;
  // Guarded by items_mutex_.
  std::deque<StreamItem> waiting_;
  int32_t running_ = 0;
  bool generating_ = false;
  bool reading_ = false;
  bool read_all_ = false;
  bool stopping_ = false;
  bool advancing_ = false;
  bool again_ = false;
  absl::Status end_;  // how the call ends once all items have been answered
};

}  // namespace weir::server
