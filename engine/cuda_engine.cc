// SPDX-License-Identifier: Apache-2.0
#include "engine/cuda_engine.h"

#include <cuda_runtime_api.h>

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/check.h"
#include "base/status_macros.h"
#include "engine/device/device_model.h"
#include "engine/device/device_step.h"
#include "engine/kernels/cuda/card.h"
#include "engine/model/model.h"
#include "engine/plan_check.h"
#include "engine/state/device_pool.h"

namespace weir::engine {
namespace {

constexpr int32_t kSlotsMax = 1 << 24;
constexpr int64_t kPassTokensMax = 8192;
// Steps of so few tokens are always taken: the self-test makes one.
constexpr int64_t kStepTokensMin = 1024;
// Major, of what the kernels' instructions need.
constexpr int kCapability = 8;
// Steps of more rows gain nothing by being captured.
constexpr int32_t kGraphRowsMax = 512;
// Left to the library and to captured steps where the pool takes the rest.
constexpr int64_t kReserveBytes = int64_t{1} << 30;

int64_t StepTokens(const CudaEngineOptions& options) {
  return std::max(options.step_tokens_max, kStepTokensMin);
}

DeviceStep::Options StepOptions(const CudaEngineOptions& options) {
  const int64_t tokens = StepTokens(options);
  return {.rows_max = options.step_rows_max,
          .tokens_max = tokens,
          .pass_tokens_max = std::min(tokens, kPassTokensMax),
          .graph_rows_max = std::min(options.step_rows_max, kGraphRowsMax)};
}

absl::Status CheckDevice() {
  int devices = 0;
  const cudaError_t status = cudaGetDeviceCount(&devices);
  if (status != cudaSuccess || devices == 0) {
    cudaGetLastError();
    return absl::UnimplementedError(absl::StrCat(
        "no GPU is to be found here: ",
        status == cudaSuccess ? "there is none" : cudaGetErrorString(status)));
  }
  if (ThisCard().major >= kCapability) return absl::OkStatus();
  int major = 0;
  int minor = 0;
  WEIR_RETURN_IF_ERROR(CudaStatus(
      cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, 0),
      "the card"));
  WEIR_RETURN_IF_ERROR(CudaStatus(
      cudaDeviceGetAttribute(&minor, cudaDevAttrComputeCapabilityMinor, 0),
      "the card"));
  return absl::UnimplementedError(
      absl::StrCat("the card has compute capability ",
                   major,
                   ".",
                   minor,
                   ", and these kernels were not compiled for it: ",
                   kCapability,
                   ".0 and later can be, by WEIR_CUDA_TARGETS"));
}

const char* NumberName(StateNumber number) {
  return number == StateNumber::kFloat32 ? "f32" : "bf16";
}

class CudaEngine final : public Engine {
 public:
  static absl::StatusOr<std::unique_ptr<Engine>> Create(
      const CudaEngineOptions& options);
  ~CudaEngine() override;

  const ModelInfo& model() const override { return info_; }
  absl::StatusOr<Ticket> Submit(const Plan& plan) override;
  absl::StatusOr<StepResult> Wait(Ticket ticket) override;
  absl::StatusOr<int32_t> AcquireSlot() override { return pool_->Acquire(); }
  void ReleaseSlot(int32_t slot) override;
  absl::Status CopySlot(int32_t from, int32_t to) override;
  absl::Status SaveSlot(int32_t slot, std::span<std::byte> host) override;
  absl::Status LoadSlot(std::span<const std::byte> host, int32_t slot) override;
  int32_t slots() const override { return pool_->slots(); }
  int32_t slots_free() const override { return pool_->slots_free(); }

 private:
  explicit CudaEngine(const CudaEngineOptions& options) : options_(options) {}

  absl::Status TakeModel();
  absl::Status TakePool();
  absl::StatusOr<int32_t> SlotsThatFit() const;
  void DescribeState();
  // Remembers that the device failed.
  absl::Status Noted(absl::Status status);

  const CudaEngineOptions options_;
  ModelInfo info_;
  cudaStream_t stream_ = nullptr;
  std::unique_ptr<DeviceModel> model_;
  std::unique_ptr<DevicePool> pool_;
  std::unique_ptr<PlanCheck> plan_check_;
  std::unique_ptr<DeviceStep> step_;
  std::vector<Row> rows_;
  // The step that was submitted and not waited for; 0: none.
  Ticket open_ticket_ = 0;
  Ticket last_ticket_ = 0;
  bool failed_ = false;
};

absl::StatusOr<std::unique_ptr<Engine>> CudaEngine::Create(
    const CudaEngineOptions& options) {
  WEIR_RETURN_IF_ERROR(CheckDevice());
  std::unique_ptr<CudaEngine> engine(new CudaEngine(options));
  WEIR_RETURN_IF_ERROR(CudaStatus(
      cudaStreamCreateWithFlags(&engine->stream_, cudaStreamNonBlocking),
      "a stream"));
  WEIR_RETURN_IF_ERROR(engine->TakeModel());
  WEIR_RETURN_IF_ERROR(engine->TakePool());
  DeviceStep::Options step = StepOptions(options);
  // No step has more rows than there are slots.
  step.graph_rows_max = std::min(step.graph_rows_max, engine->pool_->slots());
  WEIR_ASSIGN_OR_RETURN(
      engine->step_,
      DeviceStep::Create(
          engine->model_.get(), engine->pool_.get(), engine->stream_, step));
  engine->DescribeState();
  return engine;
}

CudaEngine::~CudaEngine() {
  step_.reset();
  pool_.reset();
  model_.reset();
  if (stream_ != nullptr) cudaStreamDestroy(stream_);
}

absl::Status CudaEngine::TakeModel() {
  WEIR_ASSIGN_OR_RETURN(
      const std::unique_ptr<Model> model,
      Model::Load(options_.model_dir,
                  {.pass_tokens_max = 0,
                   .allow_nonfinite = options_.allow_nonfinite,
                   .parts_in_turn = true}));
  info_ = model->info();
  absl::StatusOr<std::unique_ptr<DeviceModel>> taken = DeviceModel::Create(
      *model,
      {.number = options_.compute == Compute::kFloat32 ? StateNumber::kFloat32
                                                       : StateNumber::kBfloat16,
       .state_number = options_.state == RestNumber::kFloat32
                           ? StateNumber::kFloat32
                           : StateNumber::kBfloat16,
       .state_form = options_.state_form,
       .pass_tokens_max = std::min(StepTokens(options_), kPassTokensMax)});
  if (!taken.ok()) {
    return absl::Status(taken.status().code(),
                        absl::StrCat("the model ",
                                     options_.model_dir,
                                     ", family ",
                                     info_.family,
                                     ", on a GPU: ",
                                     taken.status().message()));
  }
  model_ = *std::move(taken);
  return absl::OkStatus();
}

absl::StatusOr<int32_t> CudaEngine::SlotsThatFit() const {
  if (options_.slots > 0) return options_.slots;
  const int64_t slot_bytes = DeviceSlotBytes(model_->state());
  int64_t bytes = options_.pool_bytes;
  if (bytes == 0) {
    size_t free_bytes = 0;
    size_t card_bytes = 0;
    WEIR_RETURN_IF_ERROR(
        CudaStatus(cudaMemGetInfo(&free_bytes, &card_bytes), "the card"));
    bytes = static_cast<int64_t>(free_bytes) - kReserveBytes -
            DeviceStep::DeviceBytes(*model_, StepOptions(options_));
  }
  // One slot more than sessions have is scratch.
  const int64_t slots = bytes / slot_bytes - 1;
  if (slots < 1) {
    return absl::ResourceExhaustedError(
        absl::StrCat("a pool of ",
                     bytes,
                     " bytes of device memory holds no two states of ",
                     slot_bytes,
                     " bytes"));
  }
  return static_cast<int32_t>(std::min<int64_t>(slots, kSlotsMax));
}

absl::Status CudaEngine::TakePool() {
  WEIR_ASSIGN_OR_RETURN(const int32_t slots, SlotsThatFit());
  WEIR_ASSIGN_OR_RETURN(pool_, DevicePool::Create(model_->state(), slots));
  plan_check_ = std::make_unique<PlanCheck>(slots);
  return absl::OkStatus();
}

void CudaEngine::DescribeState() {
  info_.state.clear();
  for (const DeviceTensor& tensor : model_->state()) {
    int64_t bytes = NumberBytes(tensor.number);
    for (const int64_t extent : tensor.shape) bytes *= extent;
    info_.state.push_back({.name = tensor.name,
                           .shape = tensor.shape,
                           .bytes = static_cast<uint64_t>(bytes),
                           .number = NumberName(tensor.number)});
  }
  info_.state_bytes = static_cast<uint64_t>(pool_->saved_bytes());
  info_.slot_bytes = static_cast<uint64_t>(DeviceSlotBytes(model_->state()));
}

absl::Status CudaEngine::Noted(absl::Status status) {
  if (!status.ok()) failed_ = true;
  return status;
}

absl::StatusOr<Ticket> CudaEngine::Submit(const Plan& plan) {
  if (failed_) return absl::InternalError("an earlier step failed");
  if (open_ticket_ != 0) {
    return absl::FailedPreconditionError("a step is already in progress");
  }
  WEIR_RETURN_IF_ERROR(
      plan_check_->Check(plan, info_.vocabulary, [this](int32_t slot) {
        return pool_->held(slot);
      }));
  int64_t tokens = 0;
  for (const Row& row : plan.rows) tokens += std::ssize(row.tokens);
  const DeviceStep::Options& most = step_->options();
  if (std::ssize(plan.rows) > most.rows_max || tokens > most.tokens_max) {
    return absl::InvalidArgumentError(absl::StrCat("a plan of ",
                                                   plan.rows.size(),
                                                   " rows and ",
                                                   tokens,
                                                   " tokens; a step takes ",
                                                   most.rows_max,
                                                   " and ",
                                                   most.tokens_max));
  }
  rows_ = plan.rows;
  WEIR_RETURN_IF_ERROR(Noted(step_->Start(rows_)));
  open_ticket_ = ++last_ticket_;
  return open_ticket_;
}

absl::StatusOr<StepResult> CudaEngine::Wait(Ticket ticket) {
  if (ticket == 0 || ticket != open_ticket_) {
    return absl::InvalidArgumentError(
        absl::StrCat("ticket ", ticket, " is of no step in progress"));
  }
  open_ticket_ = 0;
  absl::StatusOr<StepResult> result = step_->Finish();
  WEIR_RETURN_IF_ERROR(Noted(result.status()));
  return result;
}

void CudaEngine::ReleaseSlot(int32_t slot) {
  WEIR_CHECK(open_ticket_ == 0 || !plan_check_->planned(slot));
  pool_->Release(slot);
}

absl::Status CudaEngine::CopySlot(int32_t from, int32_t to) {
  WEIR_RETURN_IF_ERROR(Noted(pool_->Copy(from, to, stream_)));
  // Who asked for it is told that it is done.
  return Noted(CudaStatus(cudaStreamSynchronize(stream_), "a state's copy"));
}

absl::Status CudaEngine::SaveSlot(int32_t slot, std::span<std::byte> host) {
  const absl::Status saved = pool_->Save(slot, host, stream_);
  return absl::IsInvalidArgument(saved) ? saved : Noted(saved);
}

absl::Status CudaEngine::LoadSlot(std::span<const std::byte> host,
                                  int32_t slot) {
  const absl::Status loaded = pool_->Load(host, slot, stream_);
  return absl::IsInvalidArgument(loaded) ? loaded : Noted(loaded);
}

}  // namespace

absl::Status CheckCudaBuild() { return absl::OkStatus(); }

absl::StatusOr<std::unique_ptr<Engine>> CreateCudaEngine(
    const CudaEngineOptions& options) {
  return CudaEngine::Create(options);
}

}  // namespace weir::engine
