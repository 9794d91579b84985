// SPDX-License-Identifier: Apache-2.0
//
// Ctrl-C and SIGTERM as an orderly end: the first one cancels what is running,
// so that lines are finished and sessions closed; the second one ends the
// process at once. What sends a signal to a process and to its group, as
// timeout(1) does, sends it twice: such an echo counts once. SIGPIPE is
// ignored: a failed write says the same.
//
// Threads: made before any other thread, so that all inherit the mask; has
// one thread of its own that waits for signals.
#pragma once

#include <memory>
#include <thread>

#include "absl/time/time.h"
#include "client/cancellation.h"

namespace weir::client {

class Signals {
 public:
  // A second signal within `echo` is the first one.
  explicit Signals(std::shared_ptr<Cancellation> cancellation,
                   absl::Duration echo = absl::Milliseconds(300));
  ~Signals();
  Signals(const Signals&) = delete;
  Signals& operator=(const Signals&) = delete;

 private:
  void Watch();

  const std::shared_ptr<Cancellation> cancellation_;
  const absl::Duration echo_;
  std::thread thread_;
};

}  // namespace weir::client
