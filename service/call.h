// SPDX-License-Identifier: Apache-2.0
//
// A request on its way through the service: what was asked, and the one answer
// that it gets. It counts as in flight until it is answered.
//
// Threads: made on the caller's thread, then owned by the step thread.
#pragma once

#include <memory>
#include <optional>
#include <utility>
#include <variant>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "base/check.h"
#include "service/observer.h"
#include "service/types.h"

namespace weir::service {

class Queue;

// A place among the requests in flight; given back when destroyed.
class Permit {
 public:
  Permit() = default;
  Permit(Queue* queue, int64_t tokens) : queue_(queue), tokens_(tokens) {}
  Permit(Permit&& other) noexcept
      : queue_(std::exchange(other.queue_, nullptr)), tokens_(other.tokens_) {}
  Permit& operator=(Permit&& other) noexcept {
    std::swap(queue_, other.queue_);
    std::swap(tokens_, other.tokens_);
    return *this;
  }
  ~Permit() { Release(); }

  void Release();

 private:
  Queue* queue_ = nullptr;
  int64_t tokens_ = 0;
};

template <typename Request, typename Result>
class Call {
 public:
  Call(Request asked,
       CallContext context,
       Completion<Result> done,
       absl::Duration now,
       Observer* observer)
      : request(std::move(asked)),
        pushed(now),
        context_(std::move(context)),
        done_(std::move(done)),
        observer_(observer),
        open_(true) {}
  Call(Call&& other) noexcept
      : request(std::move(other.request)),
        pushed(other.pushed),
        permit(std::move(other.permit)),
        context_(std::move(other.context_)),
        done_(std::move(other.done_)),
        observer_(other.observer_),
        open_(std::exchange(other.open_, false)) {}
  Call& operator=(Call&&) = delete;
  // A request that nobody answers would hang its client for ever.
  ~Call() { WEIR_CHECK(!open_); }

  // Answers it. REQUIRES: the first time. The place is free before the caller
  // hears of it, so that the caller may use it for its next request.
  void Answer(absl::StatusOr<Result> result) {
    WEIR_CHECK(open_);
    open_ = false;
    if (!result.ok()) {
      const Reason reason =
          ReasonOf(result.status()).value_or(Reason::kInternal);
      if (Counts(reason)) observer_->OnRejected(reason);
    }
    permit.Release();
    std::move(done_)(std::move(result));
  }

  bool cancelled() const {
    return context_.call != nullptr &&
           context_.call->cancelled.load(std::memory_order_relaxed);
  }
  absl::Duration deadline() const { return context_.deadline; }
  bool late(absl::Duration now) const { return now > context_.deadline; }
  // Generated events that the caller has not passed on.
  int32_t unsent() const {
    return context_.call == nullptr
               ? 0
               : context_.call->unsent.load(std::memory_order_relaxed);
  }

  Request request;
  const absl::Duration pushed;
  Permit permit;

 private:
  bool Counts(Reason reason) const {
    if (context_.call == nullptr) return true;
    std::atomic<bool>& slow = context_.call->slow;
    return reason == Reason::kSlowConsumer ? !slow.exchange(true)
                                           : !slow.load();
  }

  CallContext context_;
  Completion<Result> done_;
  Observer* observer_;
  bool open_;
};

using OpenCall = Call<OpenRequest, OpenResult>;
using GetCall = Call<GetRequest, SessionInfo>;
using ListCall = Call<ListRequest, ListResult>;
using CloseCall = Call<CloseRequest, CloseResult>;
using AppendCall = Call<AppendRequest, AppendResult>;
using GenerateCall = Call<GenerateRequest, GenerateResult>;
using ForkCall = Call<ForkRequest, ForkResult>;

using Command = std::variant<OpenCall,
                             GetCall,
                             ListCall,
                             CloseCall,
                             AppendCall,
                             GenerateCall,
                             ForkCall>;

}  // namespace weir::service
