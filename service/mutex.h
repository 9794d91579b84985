// SPDX-License-Identifier: Apache-2.0
//
// A std::mutex that names what it guards. Not absl::Mutex: the system's Abseil
// is built without ThreadSanitizer, which then sees none of its locks and
// reports races that are not there.
//
// Threads: any.
#pragma once

#include <condition_variable>
#include <mutex>

#include "absl/base/thread_annotations.h"
#include "absl/time/time.h"

namespace weir::service {

class ABSL_LOCKABLE Mutex {
 public:
  void Lock() ABSL_EXCLUSIVE_LOCK_FUNCTION() { mutex_.lock(); }
  void Unlock() ABSL_UNLOCK_FUNCTION() { mutex_.unlock(); }

 private:
  friend class Condition;
  std::mutex mutex_;
};

class ABSL_SCOPED_LOCKABLE MutexLock {
 public:
  explicit MutexLock(Mutex* mutex) ABSL_EXCLUSIVE_LOCK_FUNCTION(mutex)
      : mutex_(mutex) {
    mutex_->Lock();
  }
  ~MutexLock() ABSL_UNLOCK_FUNCTION() { mutex_->Unlock(); }
  MutexLock(const MutexLock&) = delete;
  MutexLock& operator=(const MutexLock&) = delete;

 private:
  Mutex* const mutex_;
};

// A condition variable. The caller holds the mutex and loops over its
// condition.
class Condition {
 public:
  void Notify() { condition_.notify_all(); }

  // Returns when notified, after `limit`, or for no reason.
  void WaitFor(Mutex* mutex, absl::Duration limit)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex) {
    std::unique_lock<std::mutex> lock(mutex->mutex_, std::adopt_lock);
    if (limit >= kLongest) {
      condition_.wait(lock);
    } else if (limit > absl::ZeroDuration()) {
      condition_.wait_for(lock, absl::ToChronoNanoseconds(limit));
    }
    lock.release();
  }

 private:
  // Beyond it, a deadline would overflow the clock.
  static constexpr absl::Duration kLongest = absl::Hours(24 * 365);

  std::condition_variable condition_;
};

}  // namespace weir::service
