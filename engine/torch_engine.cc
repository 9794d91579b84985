// SPDX-License-Identifier: Apache-2.0
#include "engine/torch_engine.h"

#include <ATen/Parallel.h>
#include <c10/core/InferenceMode.h>
#include <c10/util/Exception.h>

#include <algorithm>
#include <new>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/check.h"
#include "base/status_macros.h"

namespace weir::engine {
namespace {

constexpr int32_t kThreadsMax = 1024;
constexpr int64_t kStepTokensMax = int64_t{1} << 20;
constexpr int32_t kSlotsMax = 1 << 24;
// A pass of more tokens makes the products no faster, and what lies between
// them leaves the caches.
constexpr int64_t kPassTokensMax = 512;

int64_t PassTokens(const TorchEngine::Options& options) {
  return std::min(options.step_tokens_max, kPassTokensMax);
}

absl::Status OutOfRange(const char* name, int64_t value, int64_t high) {
  return absl::InvalidArgumentError(absl::StrCat(
      "engine option ", name, " is ", value, ", not from 1 to ", high));
}

absl::Status CheckOptions(const TorchEngine::Options& options) {
  if (options.threads < 0 || options.threads > kThreadsMax) {
    return OutOfRange("threads", options.threads, kThreadsMax);
  }
  if (options.step_tokens_max < 1 || options.step_tokens_max > kStepTokensMax) {
    return OutOfRange(
        "step_tokens_max", options.step_tokens_max, kStepTokensMax);
  }
  if (options.pool_bytes < 0) {
    return OutOfRange("pool_bytes", options.pool_bytes, INT64_MAX);
  }
  if (options.slots < 0 || options.slots > kSlotsMax ||
      (options.slots == 0) == (options.pool_bytes == 0)) {
    return absl::InvalidArgumentError(
        absl::StrCat("either the engine option slots is set, from 1 to ",
                     kSlotsMax,
                     ", or pool_bytes is"));
  }
  return absl::OkStatus();
}

absl::StatusOr<int32_t> SlotsOf(const TorchEngine::Options& options,
                                const StateSpec& spec) {
  if (options.slots > 0) return options.slots;
  const int64_t slots = options.pool_bytes / SlotBytes(spec);
  if (slots == 0) {
    return absl::ResourceExhaustedError(
        absl::StrCat("a pool of ",
                     options.pool_bytes,
                     " bytes holds no state of ",
                     SlotBytes(spec),
                     " bytes"));
  }
  return static_cast<int32_t>(std::min<int64_t>(slots, kSlotsMax));
}

}  // namespace

absl::StatusOr<std::unique_ptr<TorchEngine>> TorchEngine::Create(
    const Options& options) {
  WEIR_RETURN_IF_ERROR(CheckOptions(options));
  try {
    return CreateThrowing(options);
  } catch (const std::bad_alloc&) {
    return absl::ResourceExhaustedError(
        absl::StrCat("no memory for the model ", options.model_dir));
  } catch (const std::exception& error) {
    return absl::InternalError(
        absl::StrCat("loading ", options.model_dir, ": ", error.what()));
  }
}

absl::StatusOr<ModelInfo> TorchEngine::Inspect(const std::string& model_dir) {
  try {
    return Model::Inspect(model_dir);
  } catch (const std::exception& error) {
    return absl::InternalError(
        absl::StrCat("looking at ", model_dir, ": ", error.what()));
  }
}

absl::StatusOr<std::unique_ptr<TorchEngine>> TorchEngine::CreateThrowing(
    const Options& options) {
  WEIR_ASSIGN_OR_RETURN(
      std::unique_ptr<Model> model,
      Model::Load(options.model_dir,
                  {.pass_tokens_max = PassTokens(options),
                   .allow_nonfinite = options.allow_nonfinite}));
  std::unique_ptr<TorchEngine> engine(
      new TorchEngine(options, std::move(model)));
  const StateSpec& spec = engine->model_->state_spec();
  WEIR_ASSIGN_OR_RETURN(const int32_t slots, SlotsOf(options, spec));
  WEIR_ASSIGN_OR_RETURN(engine->pool_,
                        StatePool::Create(spec, {.slots = slots}));
  engine->plan_check_ = std::make_unique<PlanCheck>(slots);
  engine->runner_ = std::make_unique<StepRunner>(
      engine->model_.get(), engine->pool_.get(), PassTokens(options));
  WEIR_RETURN_IF_ERROR(engine->runner_->Allocate());
  return engine;
}

TorchEngine::TorchEngine(const Options& options, std::unique_ptr<Model> model)
    : options_(options), model_(std::move(model)) {}

absl::StatusOr<Ticket> TorchEngine::Submit(const Plan& plan) {
  if (failed_) return absl::InternalError("an earlier step failed");
  if (open_ticket_ != 0) {
    return absl::FailedPreconditionError("a step is already in progress");
  }
  WEIR_RETURN_IF_ERROR(
      plan_check_->Check(plan, model().vocabulary, [this](int32_t slot) {
        return pool_->held(slot);
      }));
  rows_ = plan.rows;
  open_ticket_ = ++last_ticket_;
  return open_ticket_;
}

absl::StatusOr<StepResult> TorchEngine::Wait(Ticket ticket) {
  if (ticket == 0 || ticket != open_ticket_) {
    return absl::InvalidArgumentError(
        absl::StrCat("ticket ", ticket, " is of no step in progress"));
  }
  open_ticket_ = 0;
  try {
    SetThreads();
    const c10::InferenceMode inference;
    return runner_->Run(rows_);
  } catch (const c10::Error& error) {
    failed_ = true;
    return absl::InternalError(absl::StrCat(
        "a step of ", StepShapes(), ": ", error.what_without_backtrace()));
  } catch (const std::exception& error) {
    failed_ = true;
    return absl::InternalError(
        absl::StrCat("a step of ", StepShapes(), ": ", error.what()));
  }
}

void TorchEngine::SetThreads() {
  if (thread_ == std::this_thread::get_id()) return;
  thread_ = std::this_thread::get_id();
  const auto cores = static_cast<int>(std::thread::hardware_concurrency());
  at::set_num_threads(options_.threads > 0 ? options_.threads
                                           : std::max(1, cores));
}

std::string TorchEngine::StepShapes() const {
  size_t tokens = 0;
  for (const Row& row : rows_) tokens += row.tokens.size();
  return absl::StrCat(rows_.size(), " rows, ", tokens, " tokens");
}

absl::StatusOr<int32_t> TorchEngine::AcquireSlot() { return pool_->Acquire(); }

void TorchEngine::ReleaseSlot(int32_t slot) {
  WEIR_CHECK(open_ticket_ == 0 || !plan_check_->planned(slot));
  pool_->Release(slot);
}

absl::Status TorchEngine::CopySlot(int32_t from, int32_t to) {
  pool_->Copy(from, to);
  return absl::OkStatus();
}

absl::Status TorchEngine::SaveSlot(int32_t slot, std::span<std::byte> host) {
  return pool_->Save(slot, host);
}

absl::Status TorchEngine::LoadSlot(std::span<const std::byte> host,
                                   int32_t slot) {
  return pool_->Load(host, slot);
}

}  // namespace weir::engine
