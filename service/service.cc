// SPDX-License-Identifier: Apache-2.0
#include "service/service.h"

#include <utility>

#include "absl/strings/str_cat.h"
#include "base/check.h"
#include "base/status_macros.h"
#include "service/step_loop.h"

namespace weir::service {
namespace {

absl::Status CheckPositive(const char* name, bool positive) {
  if (positive) return absl::OkStatus();
  return Error(Reason::kBadValue,
               absl::StrCat(name, " must be positive"),
               {{"field", name}});
}

absl::Status CheckLimits(const Limits& limits) {
  WEIR_RETURN_IF_ERROR(CheckPositive("queue_max", limits.queue_max > 0));
  WEIR_RETURN_IF_ERROR(
      CheckPositive("waiting_tokens_max", limits.waiting_tokens_max > 0));
  WEIR_RETURN_IF_ERROR(
      CheckPositive("append_tokens_max", limits.append_tokens_max > 0));
  WEIR_RETURN_IF_ERROR(
      CheckPositive("step_tokens_max", limits.step_tokens_max > 0));
  WEIR_RETURN_IF_ERROR(
      CheckPositive("step_rows_max", limits.step_rows_max > 0));
  WEIR_RETURN_IF_ERROR(
      CheckPositive("session_tokens_max", limits.session_tokens_max > 0));
  WEIR_RETURN_IF_ERROR(
      CheckPositive("log_bytes_max", limits.log_bytes_max > 0));
  WEIR_RETURN_IF_ERROR(
      CheckPositive("generate_tokens_max", limits.generate_tokens_max > 0));
  WEIR_RETURN_IF_ERROR(
      CheckPositive("unsent_events_max", limits.unsent_events_max > 0));
  WEIR_RETURN_IF_ERROR(
      CheckPositive("slow_consumer_after",
                    limits.slow_consumer_after > absl::ZeroDuration()));
  WEIR_RETURN_IF_ERROR(
      CheckPositive("idle_timeout_default",
                    limits.idle_timeout_default > absl::ZeroDuration()));
  return CheckPositive("idle_timeout_max",
                       limits.idle_timeout_max > absl::ZeroDuration());
}

}  // namespace

absl::StatusOr<std::unique_ptr<Service>> Service::Create(Parts parts,
                                                         Limits limits) {
  WEIR_CHECK(parts.engine != nullptr && parts.store != nullptr &&
             parts.clock != nullptr && parts.observer != nullptr);
  WEIR_RETURN_IF_ERROR(CheckLimits(limits));
  auto loop = std::make_unique<StepLoop>(std::move(parts), limits);
  loop->Start();
  return std::unique_ptr<Service>(new Service(std::move(loop)));
}

Service::Service(std::unique_ptr<StepLoop> loop) : loop_(std::move(loop)) {}
Service::~Service() = default;

void Service::Open(OpenRequest request,
                   CallContext context,
                   Completion<OpenResult> done) {
  loop_->Push(OpenCall(std::move(request),
                       std::move(context),
                       std::move(done),
                       loop_->now(),
                       loop_->observer()));
}

void Service::Get(GetRequest request,
                  CallContext context,
                  Completion<SessionInfo> done) {
  loop_->Push(GetCall(std::move(request),
                      std::move(context),
                      std::move(done),
                      loop_->now(),
                      loop_->observer()));
}

void Service::List(ListRequest request,
                   CallContext context,
                   Completion<ListResult> done) {
  loop_->Push(ListCall(std::move(request),
                       std::move(context),
                       std::move(done),
                       loop_->now(),
                       loop_->observer()));
}

void Service::Close(CloseRequest request,
                    CallContext context,
                    Completion<CloseResult> done) {
  loop_->Push(CloseCall(std::move(request),
                        std::move(context),
                        std::move(done),
                        loop_->now(),
                        loop_->observer()));
}

void Service::Append(AppendRequest request,
                     CallContext context,
                     Completion<AppendResult> done) {
  loop_->Push(AppendCall(std::move(request),
                         std::move(context),
                         std::move(done),
                         loop_->now(),
                         loop_->observer()));
}

void Service::Generate(GenerateRequest request,
                       CallContext context,
                       Completion<GenerateResult> done) {
  loop_->Push(GenerateCall(std::move(request),
                           std::move(context),
                           std::move(done),
                           loop_->now(),
                           loop_->observer()));
}

void Service::Fork(ForkRequest request,
                   CallContext context,
                   Completion<ForkResult> done) {
  loop_->Push(ForkCall(std::move(request),
                       std::move(context),
                       std::move(done),
                       loop_->now(),
                       loop_->observer()));
}

void Service::Wake() { loop_->Wake(); }

bool Service::Drain(absl::Duration limit) {
  loop_->BeginDrain();
  return loop_->AwaitDrained(limit);
}

const engine::ModelInfo& Service::model() const { return loop_->model(); }
const Limits& Service::limits() const { return loop_->limits(); }
ServiceInfo Service::info() const { return loop_->info(); }
absl::Status Service::health() const { return loop_->health(); }

}  // namespace weir::service
