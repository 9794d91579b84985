// SPDX-License-Identifier: Apache-2.0
//
// The only way in: what a client asks becomes a command in a bounded queue,
// and one step thread answers it. "Close while a step runs" is an order here,
// not a race.
//
// Threads: every method from any thread. A full queue refuses at once with
// QUEUE_FULL, after Drain() everything is refused with SERVER_DRAINING; both
// on the caller's thread. All other answers come on the step thread.
#pragma once

#include <memory>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "engine/engine.h"
#include "service/clock.h"
#include "service/observer.h"
#include "service/store.h"
#include "service/types.h"

namespace weir::service {

class StepLoop;

class Service {
 public:
  struct Parts {
    std::unique_ptr<engine::Engine> engine;
    std::unique_ptr<Store> store;
    const Clock* clock = nullptr;  // not owned; outlives the service
    Observer* observer = nullptr;  // not owned; outlives the service
  };

  // Starts the step thread. INVALID_ARGUMENT, naming it, for a limit that is
  // not positive.
  static absl::StatusOr<std::unique_ptr<Service>> Create(Parts parts,
                                                         Limits limits);
  // Stops at once: what has not been answered is answered SERVER_DRAINING.
  ~Service();

  void Open(OpenRequest request, CallContext context, Completion<OpenResult>);
  void Get(GetRequest request, CallContext context, Completion<SessionInfo>);
  void List(ListRequest request, CallContext context, Completion<ListResult>);
  void Close(CloseRequest request,
             CallContext context,
             Completion<CloseResult>);
  void Append(AppendRequest request,
              CallContext context,
              Completion<AppendResult>);
  // Events come by request.on_event; the completion ends it.
  void Generate(GenerateRequest request,
                CallContext context,
                Completion<GenerateResult>);
  void Fork(ForkRequest request, CallContext context, Completion<ForkResult>);

  // Makes the step thread look at cancelled calls and unsent events again.
  void Wake();

  // Refuses new requests, lets accepted appends finish, and ends generations
  // after the token in hand with SERVER_DRAINING. True when nothing is left
  // within `limit`.
  bool Drain(absl::Duration limit);

  const engine::ModelInfo& model() const;
  const Limits& limits() const;
  ServiceInfo info() const;
  // The fault that stopped the step thread, or OK: the device is unfit, and
  // the process should end. Every request is then answered DEVICE_FAULT.
  absl::Status health() const;

 private:
  explicit Service(std::unique_ptr<StepLoop> loop);

  std::unique_ptr<StepLoop> loop_;
};

}  // namespace weir::service
