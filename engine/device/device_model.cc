// SPDX-License-Identifier: Apache-2.0
#include "engine/device/device_model.h"

#include <algorithm>
#include <span>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/status_macros.h"
#include "engine/device/part_table.h"

namespace weir::engine {
namespace {

// Rows of 16 bytes are what all kernels here take.
constexpr int32_t kHiddenStep = 8;

absl::Status Within(absl::Status status, const LayerPart& part) {
  if (status.ok()) return status;
  return absl::Status(
      status.code(),
      absl::StrCat("the layer part ", part.prefix, ": ", status.message()));
}

}  // namespace

absl::StatusOr<std::unique_ptr<DeviceModel>> DeviceModel::Create(
    Model& from, const Options& options) {
  std::unique_ptr<DeviceModel> model(new DeviceModel(from, options));
  if (model->hidden_ % kHiddenStep != 0) {
    return absl::UnimplementedError(absl::StrCat("on a GPU the hidden size, ",
                                                 model->hidden_,
                                                 ", must be a multiple of ",
                                                 kHiddenStep));
  }
  WEIR_ASSIGN_OR_RETURN(model->products_, Products::Create(options.number));
  WEIR_RETURN_IF_ERROR(model->TakeWeights(from));
  WEIR_RETURN_IF_ERROR(model->TakeWorkspace());
  // Memory was cleared and filled on the default stream, for which the step's
  // stream does not wait.
  WEIR_RETURN_IF_ERROR(
      CudaStatus(cudaDeviceSynchronize(), "the weights' way to the card"));
  return model;
}

DeviceModel::DeviceModel(const Model& from, const Options& options)
    : options_(options),
      hidden_(from.spec().hidden),
      vocabulary_(from.spec().vocabulary),
      logit_cap_(from.spec().logit_cap) {}

absl::StatusOr<DeviceModel::DeviceNorm> DeviceModel::NormOf(
    const NormWeights& from, DeviceWeights& weights) {
  DeviceNorm norm;
  norm.args = from.Args();
  const auto width = static_cast<size_t>(norm.args.width);
  const auto take = [&](const float* values) {
    return weights.Floats(
        std::span<const float>(values, values == nullptr ? 0 : width));
  };
  WEIR_ASSIGN_OR_RETURN(norm.weight, take(norm.args.weight));
  WEIR_ASSIGN_OR_RETURN(norm.bias, take(norm.args.bias));
  norm.args.weight = norm.weight.as<float>();
  norm.args.bias = norm.bias.as<float>();
  return norm;
}

absl::Status DeviceModel::TakeWeights(Model& from) {
  WEIR_ASSIGN_OR_RETURN(DeviceWeights weights,
                        DeviceWeights::Create(options_.number));
  WEIR_ASSIGN_OR_RETURN(embedding_, weights.Matrix(from.embedding()));
  if (!from.spec().tied) {
    WEIR_ASSIGN_OR_RETURN(head_, weights.Matrix(from.head()));
  }
  from.DropTables();
  if (from.first_norm() != nullptr) {
    first_norm_ = std::make_unique<DeviceNorm>();
    WEIR_ASSIGN_OR_RETURN(*first_norm_, NormOf(*from.first_norm(), weights));
  }
  WEIR_ASSIGN_OR_RETURN(final_norm_, NormOf(from.final_norm(), weights));
  return TakeParts(from, weights);
}

absl::Status DeviceModel::TakeParts(Model& from, DeviceWeights& weights) {
  for (size_t i = 0; i < from.parts().size(); ++i) {
    WEIR_RETURN_IF_ERROR(from.LoadPart(i));
    const LayerPart& part = from.parts()[i];
    Placed placed;
    WEIR_ASSIGN_OR_RETURN(placed.norm, NormOf(part.norm, weights));
    absl::StatusOr<std::unique_ptr<DevicePart>> made =
        MakeDevicePart(*part.mixer, options_.state_form, weights);
    WEIR_RETURN_IF_ERROR(Within(made.status(), part));
    placed.part = *std::move(made);
    placed.state = state_.size();
    for (DeviceTensor& tensor : placed.part->State(options_.state_number)) {
      tensor.name = absl::StrCat(part.prefix, tensor.name);
      state_.push_back(std::move(tensor));
    }
    parts_.push_back(std::move(placed));
    from.DropPart(i);
  }
  state_.push_back({"output", {hidden_}, options_.number});
  return absl::OkStatus();
}

absl::Status DeviceModel::TakeWorkspace() {
  constexpr char kWorkspace[] = "a workspace of a step";
  const int64_t tokens = PaddedTokens(options_.pass_tokens_max);
  int64_t bytes = 0;
  int64_t shared = 0;
  for (const Placed& placed : parts_) {
    bytes = std::max(bytes, placed.part->workspace_bytes(tokens));
    shared = std::max(shared, placed.part->shared_floats());
  }
  const int64_t row = tokens * hidden_;
  WEIR_ASSIGN_OR_RETURN(
      residual_,
      DeviceMemory::Take(row * static_cast<int64_t>(sizeof(float)),
                         kWorkspace));
  WEIR_ASSIGN_OR_RETURN(
      rows_,
      DeviceMemory::Take(row * NumberBytes(options_.number), kWorkspace));
  WEIR_ASSIGN_OR_RETURN(workspace_, DeviceMemory::Take(bytes, kWorkspace));
  WEIR_ASSIGN_OR_RETURN(
      shared_,
      DeviceMemory::Take(tokens * shared * static_cast<int64_t>(sizeof(float)),
                         kWorkspace));
  return absl::OkStatus();
}

absl::StatusOr<const void*> DeviceModel::Forward(const DeviceBatch& batch,
                                                 const uint32_t* tokens,
                                                 DevicePool& pool,
                                                 cudaStream_t stream) {
  auto* residual = residual_.as<float>();
  WEIR_RETURN_IF_ERROR(CudaStatus(EmbedTokens(tokens,
                                              batch.tokens,
                                              embedding_.data(),
                                              options_.number,
                                              hidden_,
                                              residual,
                                              stream),
                                  "the embedding"));
  if (first_norm_ != nullptr) {
    WEIR_RETURN_IF_ERROR(CudaStatus(NormRows(first_norm_->args,
                                             residual,
                                             batch.tokens,
                                             StateNumber::kFloat32,
                                             residual,
                                             stream),
                                    "the embedding's norm"));
  }
  DeviceInput input = {.batch = &batch,
                       .residual = residual,
                       .norm = {},
                       .rows = rows_.data(),
                       .pool = &pool,
                       .state_number = options_.state_number,
                       .workspace = workspace_.data(),
                       .shared = shared_.as<float>(),
                       .products = products_.get(),
                       .stream = stream};
  for (const Placed& placed : parts_) {
    input.norm = placed.norm.args;
    input.state = placed.state;
    WEIR_RETURN_IF_ERROR(placed.part->Forward(input));
  }
  WEIR_RETURN_IF_ERROR(CudaStatus(NormRows(final_norm_.args,
                                           residual,
                                           batch.tokens,
                                           options_.number,
                                           rows_.data(),
                                           stream),
                                  "the final norm"));
  return rows_.data();
}

absl::Status DeviceModel::Logits(const void* outputs,
                                 int64_t count,
                                 float* logits,
                                 cudaStream_t stream) {
  WEIR_RETURN_IF_ERROR(products_->Multiply(
      {.number = options_.number,
       .tokens = count,
       .inputs = hidden_,
       .outputs = vocabulary_,
       .weight = head_.data() != nullptr ? head_.data() : embedding_.data(),
       .x = outputs,
       .x_stride = hidden_,
       .target = ProductTarget::kFloat,
       .y = logits,
       .y_stride = vocabulary_},
      stream));
  if (logit_cap_ == 0) return absl::OkStatus();
  return CudaStatus(
      SoftCapLogits(logits, count * vocabulary_, logit_cap_, stream),
      "the logits' bound");
}

OutputRows DeviceModel::OutputsOf(const DevicePool& pool) const {
  const size_t tensor = state_.size() - 1;
  return {.hidden = hidden_,
          .number = options_.number,
          .slots = pool.base(tensor),
          .slot_stride = pool.stride(tensor)};
}

}  // namespace weir::engine
