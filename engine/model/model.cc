// SPDX-License-Identifier: Apache-2.0
#include "engine/model/model.h"

#include <algorithm>
#include <cstring>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/check.h"
#include "base/status_macros.h"
#include "engine/kernels/pointwise.h"
#include "engine/mixers/parallel.h"
#include "engine/model/weights.h"

namespace weir::engine {
namespace {

constexpr const char* kHead = "lm_head.weight";

LayerNames NamesOf(const ModelConfig& config) {
  if (std::holds_alternative<GatedDeltaNetShape>(config.mixer)) {
    return {.root = "model.", .norm = "attn_norm.weight", .mixer = "attn."};
  }
  return {.root = "backbone.", .norm = "norm.weight", .mixer = "mixer."};
}

std::string FinalNormOf(const ModelConfig& config) {
  return std::holds_alternative<GatedDeltaNetShape>(config.mixer)
             ? "model.norm.weight"
             : "backbone.norm_f.weight";
}

std::unique_ptr<Mixer> MakeMixer(const ModelConfig& config) {
  if (const auto* shape = std::get_if<GatedDeltaNetShape>(&config.mixer)) {
    return std::make_unique<GatedDeltaNet>(*shape);
  }
  return std::make_unique<Mamba2>(std::get<Mamba2Shape>(config.mixer));
}

}  // namespace

absl::StatusOr<std::unique_ptr<Model>> Model::Load(const std::string& folder,
                                                   const Options& options) {
  WEIR_ASSIGN_OR_RETURN(const Checkpoint checkpoint, Checkpoint::Open(folder));
  WEIR_ASSIGN_OR_RETURN(std::unique_ptr<Model> model,
                        Make(checkpoint, options));
  WEIR_ASSIGN_OR_RETURN(const std::vector<WeightSlot> slots,
                        model->Place(checkpoint));
  WEIR_RETURN_IF_ERROR(LoadWeights(checkpoint, slots, options.allow_nonfinite));
  for (Buffer* buffer : {&model->residual_,
                         &model->normed_,
                         &model->part_,
                         &model->workspace_}) {
    WEIR_RETURN_IF_ERROR(buffer->Allocate());
  }
  return model;
}

absl::StatusOr<ModelInfo> Model::Inspect(const std::string& folder) {
  WEIR_ASSIGN_OR_RETURN(const Checkpoint checkpoint, Checkpoint::Open(folder));
  WEIR_ASSIGN_OR_RETURN(const std::unique_ptr<Model> model,
                        Make(checkpoint, {.pass_tokens_max = 1}));
  WEIR_RETURN_IF_ERROR(model->Place(checkpoint).status());
  return model->info();
}

absl::StatusOr<std::unique_ptr<Model>> Model::Make(const Checkpoint& checkpoint,
                                                   const Options& options) {
  WEIR_ASSIGN_OR_RETURN(
      ModelConfig config,
      ParseConfig(checkpoint.config(), checkpoint.folder() + "/config.json"));
  return std::unique_ptr<Model>(new Model(std::move(config), options));
}

Model::Model(ModelConfig config, const Options& options)
    : config_(std::move(config)),
      options_(options),
      embedding_(int64_t{config_.vocabulary} * config_.hidden),
      final_norm_(config_.hidden),
      head_(config_.tied ? 0 : embedding_.size()),
      residual_(options.pass_tokens_max * config_.hidden),
      normed_(residual_.size()),
      part_(residual_.size()) {
  int64_t workspace = 0;
  layers_.resize(static_cast<size_t>(config_.layers));
  for (size_t i = 0; i < layers_.size(); ++i) {
    Layer& layer = layers_[i];
    layer.norm = Buffer(config_.hidden);
    layer.mixer = MakeMixer(config_);
    workspace = std::max(workspace, layer.mixer->workspace_floats());
    if (config_.intermediate > 0) {
      layer.feed_forward_norm = Buffer(config_.hidden);
      layer.feed_forward =
          std::make_unique<SwiGlu>(config_.hidden, config_.intermediate);
      workspace = std::max(workspace, layer.feed_forward->workspace_floats());
    }
    layer.state = state_spec_.tensors.size();
    for (StateTensor& tensor : layer.mixer->State()) {
      tensor.name = absl::StrCat("layers.", i, ".", tensor.name);
      state_spec_.tensors.push_back(std::move(tensor));
    }
  }
  state_spec_.tensors.push_back({.name = "output", .shape = {config_.hidden}});
  workspace_ = Buffer(workspace * options.pass_tokens_max);
}

absl::StatusOr<std::vector<WeightSlot>> Model::Place(
    const Checkpoint& checkpoint) {
  const LayerNames names = NamesOf(config_);
  const std::vector<int64_t> table = {config_.vocabulary, config_.hidden};
  std::vector<WeightSlot> slots = {{.name = names.root + "embeddings.weight",
                                    .shape = table,
                                    .buffer = &embedding_},
                                   {.name = FinalNormOf(config_),
                                    .shape = {config_.hidden},
                                    .buffer = &final_norm_}};
  for (size_t i = 0; i < layers_.size(); ++i) {
    auto layer = LayerWeights(
        layers_[i], static_cast<int32_t>(i), config_.hidden, names);
    std::move(layer.begin(), layer.end(), std::back_inserter(slots));
  }
  std::vector<UnusedTensor> unused;
  if (config_.tied) {
    unused.push_back({.name = kHead, .shape = table});
  } else {
    slots.push_back({.name = kHead, .shape = table, .buffer = &head_});
  }
  WEIR_RETURN_IF_ERROR(CheckWeights(checkpoint, slots, unused));

  info_.family = config_.family;
  info_.dtype = WeightDtypeName(checkpoint.Find(slots[0].name)->dtype);
  for (const WeightSlot& slot : slots) {
    info_.parameters += checkpoint.Find(slot.name)->elements;
  }
  info_.vocabulary = static_cast<uint32_t>(config_.vocabulary);
  info_.layers = static_cast<uint32_t>(config_.layers);
  info_.state_bytes = static_cast<uint64_t>(state_spec_.bytes());
  info_.trained_length = config_.trained_length;
  info_.byte_tokens = !checkpoint.has_tokenizer() && info_.vocabulary >= 256;
  info_.start_token = config_.start_token;
  return slots;
}

void Model::Embed(const uint32_t* tokens, int64_t count) {
  const int64_t hidden = config_.hidden;
  for (int64_t t = 0; t < count; ++t) {
    std::memcpy(residual_.data() + t * hidden,
                embedding_.data() + tokens[t] * hidden,
                hidden * sizeof(float));
  }
}

const float* Model::Forward(const Batch& batch,
                            const uint32_t* tokens,
                            StatePool& pool) {
  WEIR_CHECK(batch.tokens > 0 && batch.tokens <= options_.pass_tokens_max);
  const int32_t hidden = config_.hidden;
  const float eps = config_.eps;
  // Adds the part to the residual stream and takes the next part's norm.
  const auto add_and_norm = [&](const Buffer& weight) {
    ParallelFor(batch.tokens, 4 * hidden, [&](int64_t begin, int64_t end) {
      AddRmsNorm(residual_.data(),
                 part_.data(),
                 weight.data(),
                 eps,
                 hidden,
                 normed_.data(),
                 begin,
                 end);
    });
  };

  Embed(tokens, batch.tokens);
  RmsNorm({residual_.data(), hidden},
          layers_[0].norm.data(),
          eps,
          hidden,
          normed_.data(),
          0,
          batch.tokens);
  for (size_t i = 0; i < layers_.size(); ++i) {
    const Layer& layer = layers_[i];
    layer.mixer->Forward(batch,
                         normed_.data(),
                         {.pool = &pool, .first = layer.state},
                         workspace_.data(),
                         part_.data());
    if (layer.feed_forward != nullptr) {
      add_and_norm(layer.feed_forward_norm);
      layer.feed_forward->Forward(
          normed_.data(), batch.tokens, workspace_.data(), part_.data());
    }
    add_and_norm(i + 1 < layers_.size() ? layers_[i + 1].norm : final_norm_);
  }
  return normed_.data();
}

void Model::Logits(const float* outputs, int64_t rows, float* logits) const {
  MatMul(outputs,
         rows,
         config_.hidden,
         config_.tied ? embedding_.data() : head_.data(),
         config_.vocabulary,
         /*bias=*/nullptr,
         logits);
}

}  // namespace weir::engine
