// SPDX-License-Identifier: Apache-2.0
//
// Ctrl-C and SIGTERM as an orderly end: the first one cancels what is running,
// so that lines are finished and sessions closed; the second one ends the
// process at once. SIGPIPE is ignored: a failed write says the same.
//
// Threads: made before any other thread, so that all inherit the mask; has
// one thread of its own that waits for signals.
#pragma once

#include <memory>
#include <thread>

#include "client/cancellation.h"

namespace weir::client {

class Signals {
 public:
  explicit Signals(std::shared_ptr<Cancellation> cancellation);
  ~Signals();
  Signals(const Signals&) = delete;
  Signals& operator=(const Signals&) = delete;

 private:
  void Watch();

  const std::shared_ptr<Cancellation> cancellation_;
  std::thread thread_;
};

}  // namespace weir::client
