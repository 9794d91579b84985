// SPDX-License-Identifier: Apache-2.0
//
// The step loop on strings: a test pushes requests and says "run one step".
// Nothing happens in between, and no time passes unless the test says so.
//
// Threads: the test's own.
#pragma once

#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "base/check.h"
#include "service/step_loop.h"
#include "tests/support/counting_observer.h"
#include "tests/support/fake_clock.h"
#include "tests/support/fake_engine.h"
#include "tests/support/fake_store.h"

namespace weir::support {

// An answer that comes once.
template <typename Result>
class Reply {
 public:
  Reply() : answer_(std::make_shared<std::optional<Answer>>()) {}

  service::Completion<Result> Sink() {
    return [answer = answer_](absl::StatusOr<Result> result) {
      WEIR_CHECK(!answer->has_value());
      *answer = std::move(result);
    };
  }
  bool done() const { return answer_->has_value(); }
  bool ok() const { return done() && (*answer_)->ok(); }
  absl::Status status() const {
    return done() ? (*answer_)->status()
                  : absl::UnknownError("there is no answer yet");
  }
  // REQUIRES: ok.
  const Result& operator*() const { return ***answer_; }
  const Result* operator->() const { return &***answer_; }
  // nullopt: no answer yet, or OK, or not one of the service's.
  std::optional<service::Reason> reason() const {
    return done() ? service::ReasonOf(status()) : std::nullopt;
  }

 private:
  using Answer = absl::StatusOr<Result>;
  std::shared_ptr<std::optional<Answer>> answer_;
};

using Tokens = std::vector<uint32_t>;

// What a generation has sent.
struct Generated {
  Reply<service::GenerateResult> end;
  std::shared_ptr<std::vector<service::GenerateEvent>> events;
  std::shared_ptr<service::CallState> call;

  Tokens tokens() const;
  std::string text() const;
  std::vector<float> log_probs() const;
  service::FinishReason finish() const;
};

class ManualStepLoop {
 public:
  struct Options {
    FakeEngine::Options engine = {};
    service::Limits limits = {};
  };

  ManualStepLoop() : ManualStepLoop(Options()) {}
  explicit ManualStepLoop(Options options);
  ~ManualStepLoop();

  // Each pushes a request. Nothing is answered before the loop runs, but for
  // what is refused at the door.
  Reply<service::OpenResult> Open(std::string id);
  Reply<service::OpenResult> Open(service::OpenRequest request);
  Reply<service::SessionInfo> Get(std::string id);
  Reply<service::ListResult> List(service::ListRequest request);
  Reply<service::CloseResult> Close(std::string id);
  Reply<service::AppendResult> Append(std::string id,
                                      uint64_t position,
                                      Tokens tokens,
                                      bool want_scores = false);
  Reply<service::AppendResult> Append(service::AppendRequest request,
                                      service::CallContext context = {});
  Generated Generate(service::GenerateRequest request,
                     service::CallContext context = {});
  Reply<service::ForkResult> Fork(service::ForkRequest request);

  bool RunOnce() { return loop_->RunOnce(); }
  // Runs until nothing is left to do but to wait.
  void Run();
  // As Get and Run. REQUIRES: the session is open.
  service::SessionInfo Info(std::string id);
  // Destroys the loop.
  void Stop() { loop_.reset(); }

  service::StepLoop& loop() { return *loop_; }
  FakeEngine& engine() { return *engine_; }
  FakeStore& store() { return *store_; }
  FakeClock& clock() { return clock_; }
  CountingObserver& observer() { return observer_; }

 private:
  FakeClock clock_;
  CountingObserver observer_;
  FakeEngine* engine_ = nullptr;  // owned by loop_
  FakeStore* store_ = nullptr;    // likewise
  std::unique_ptr<service::StepLoop> loop_;
};

}  // namespace weir::support
