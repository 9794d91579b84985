// SPDX-License-Identifier: Apache-2.0
#include "client/signals.h"

#include <pthread.h>
#include <signal.h>
#include <unistd.h>

namespace weir::client {
namespace {

constexpr int kInterrupted = 130;

sigset_t WatchedSignals() {
  sigset_t set;
  sigemptyset(&set);
  sigaddset(&set, SIGINT);
  sigaddset(&set, SIGTERM);
  sigaddset(&set, SIGUSR1);  // from the destructor
  return set;
}

}  // namespace

Signals::Signals(std::shared_ptr<Cancellation> cancellation,
                 absl::Duration echo)
    : cancellation_(std::move(cancellation)), echo_(echo) {
  signal(SIGPIPE, SIG_IGN);
  const sigset_t set = WatchedSignals();
  pthread_sigmask(SIG_BLOCK, &set, nullptr);
  thread_ = std::thread([this] { Watch(); });
}

Signals::~Signals() {
  pthread_kill(thread_.native_handle(), SIGUSR1);
  thread_.join();
}

void Signals::Watch() {
  const sigset_t set = WatchedSignals();
  int signal = 0;
  absl::Time last = absl::InfinitePast();
  while (sigwait(&set, &signal) == 0 && signal != SIGUSR1) {
    const absl::Time now = absl::Now();
    if (now - last < echo_) continue;
    last = now;
    // Something that was cancelled before and still runs will not end.
    if (cancellation_->cancelled()) _exit(kInterrupted);
    cancellation_->Cancel();
  }
}

}  // namespace weir::client
