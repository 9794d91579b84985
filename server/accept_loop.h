// SPDX-License-Identifier: Apache-2.0
//
// Accepts connections and hands them to gRPC. gRPC 1.51's own loop never
// accepts again once file descriptors have run out; this one rests for a moment
// and goes on. It also closes connections beyond a limit at once.
//
// Threads: one of its own; the methods from any.
#pragma once

#include <sys/types.h>

#include <atomic>
#include <cstdint>
#include <functional>
#include <memory>
#include <thread>
#include <unordered_map>

#include "absl/status/statusor.h"
#include "server/config.h"

namespace weir::server {

class AcceptLoop {
 public:
  struct Options {
    Address address;
    int connections_max = 0;
    // Takes a connection over, its descriptor too.
    std::function<void(int listener, int connection)> on_connection;
    // What the metrics hear: connections now, and each one refused.
    std::function<void(int64_t open)> on_count;
    std::function<void()> on_refused;
  };

  // Binds and listens; connections wait until Start. UNAVAILABLE if the
  // address cannot be had.
  static absl::StatusOr<std::unique_ptr<AcceptLoop>> Create(Options options);
  ~AcceptLoop();

  void Start();
  // Stops accepting; open connections stay.
  void Stop();

  // Where it listens; the port is the real one.
  const Address& address() const { return options_.address; }

 private:
  AcceptLoop(Options options, int listener, int wake);
  void Run();
  // False: no descriptor or memory is left for a connection.
  bool AcceptAll();
  void Take(int connection);
  void Sweep();

  Options options_;
  const int listener_;
  const int wake_;  // an eventfd
  std::atomic<bool> stopping_ = false;
  std::thread thread_;

  // Owned by the thread: connections by descriptor, with the socket's inode.
  // gRPC closes descriptors and tells nobody; Sweep() finds out.
  std::unordered_map<int, ino_t> open_;
};

}  // namespace weir::server
