// SPDX-License-Identifier: Apache-2.0
#include "engine/model/model.h"

#include <algorithm>
#include <cstring>
#include <iterator>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/check.h"
#include "base/status_macros.h"
#include "engine/kernels/pointwise.h"
#include "engine/mixers/parallel.h"
#include "engine/model/config.h"
#include "engine/model/weights.h"

namespace weir::engine {
namespace {

NormShape FinalNorm(const DecoderSpec& spec) {
  NormShape norm = spec.norm;
  norm.eps = spec.final_eps.value_or(norm.eps);
  return norm;
}

}  // namespace

absl::StatusOr<std::unique_ptr<Model>> Model::Load(const std::string& folder,
                                                   const Options& options) {
  WEIR_ASSIGN_OR_RETURN(Checkpoint checkpoint, Checkpoint::Open(folder));
  WEIR_ASSIGN_OR_RETURN(std::unique_ptr<Model> model,
                        Make(checkpoint, options));
  WEIR_ASSIGN_OR_RETURN(const std::vector<WeightSlot> slots,
                        model->Place(checkpoint));
  WEIR_RETURN_IF_ERROR(LoadWeights(checkpoint, slots, options.allow_nonfinite));
  for (Buffer* buffer : {&model->residual_,
                         &model->normed_,
                         &model->part_,
                         &model->shared_,
                         &model->workspace_}) {
    WEIR_RETURN_IF_ERROR(buffer->Allocate());
  }
  if (options.parts_in_turn) {
    model->checkpoint_ = std::make_unique<Checkpoint>(std::move(checkpoint));
    return model;
  }
  for (LayerPart& part : model->parts_) part.mixer->Prepare();
  return model;
}

absl::Status Model::LoadPart(size_t index) {
  WEIR_CHECK(checkpoint_ != nullptr);
  LayerPart& part = parts_[index];
  WEIR_RETURN_IF_ERROR(
      LoadWeights(*checkpoint_, part.Weights(), options_.allow_nonfinite));
  part.mixer->Prepare();
  return absl::OkStatus();
}

void Model::DropPart(size_t index) { parts_[index].mixer = nullptr; }

void Model::DropTables() {
  embedding_.Release();
  head_.Release();
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
      DecoderSpec spec,
      ParseConfig(checkpoint.config(), checkpoint.folder() + "/config.json"));
  return std::unique_ptr<Model>(new Model(std::move(spec), options));
}

Model::Model(DecoderSpec spec, const Options& options)
    : spec_(std::move(spec)),
      options_(options),
      embedding_(int64_t{spec_.vocabulary} * spec_.hidden),
      final_norm_(FinalNorm(spec_), spec_.hidden),
      head_(spec_.tied ? 0 : embedding_.size()),
      residual_(options.pass_tokens_max * spec_.hidden),
      normed_(residual_.size()),
      part_(residual_.size()) {
  if (!spec_.names.first_norm.empty()) {
    first_norm_ = std::make_unique<NormWeights>(spec_.norm, spec_.hidden);
  }
  int64_t workspace = 0;
  int64_t shared = 0;
  for (int32_t layer = 0; layer < spec_.layers; ++layer) {
    for (LayerPart& part : MakeLayer(spec_, layer)) {
      workspace = std::max(workspace, part.mixer->workspace_floats());
      shared = std::max(shared, part.mixer->shared_floats());
      part.state = state_spec_.tensors.size();
      for (StateTensor& tensor : part.mixer->State()) {
        tensor.name = absl::StrCat("layers.", layer, ".", tensor.name);
        state_spec_.tensors.push_back(std::move(tensor));
      }
      parts_.push_back(std::move(part));
    }
  }
  state_spec_.tensors.push_back({.name = "output", .shape = {spec_.hidden}});
  workspace_ = Buffer(workspace * options.pass_tokens_max);
  shared_ = Buffer(shared * options.pass_tokens_max);
}

absl::StatusOr<std::vector<WeightSlot>> Model::Place(
    const Checkpoint& checkpoint) {
  const TensorNames& names = spec_.names;
  const std::vector<int64_t> table = {spec_.vocabulary, spec_.hidden};
  std::vector<WeightSlot> slots = {
      {.name = names.embedding, .shape = table, .buffer = &embedding_}};
  const auto add = [&slots](std::vector<WeightSlot> more) {
    std::move(more.begin(), more.end(), std::back_inserter(slots));
  };
  if (first_norm_ != nullptr) add(first_norm_->Weights(names.first_norm));
  add(final_norm_.Weights(names.final_norm));
  add(spec_.shared);
  std::vector<UnusedTensor> unused = spec_.unused;
  if (spec_.tied) {
    unused.push_back({.name = names.head, .shape = table});
  } else {
    slots.push_back({.name = names.head, .shape = table, .buffer = &head_});
  }
  const size_t without_parts = slots.size();
  for (LayerPart& part : parts_) add(part.Weights());
  WEIR_RETURN_IF_ERROR(CheckWeights(checkpoint, slots, unused));
  Describe(checkpoint, slots);
  if (options_.parts_in_turn)
    slots.erase(slots.begin() + static_cast<ptrdiff_t>(without_parts),
                slots.end());
  return slots;
}

void Model::Describe(const Checkpoint& checkpoint,
                     const std::vector<WeightSlot>& slots) {
  info_.family = spec_.family;
  info_.dtype = WeightDtypeName(checkpoint.Find(slots[0].name)->dtype);
  for (const WeightSlot& slot : slots) {
    const TensorInfo& tensor = *checkpoint.Find(slot.name);
    info_.parameters += tensor.elements;
    info_.parameters_of[WeightDtypeName(tensor.dtype)] += tensor.elements;
    info_.weight_bytes += tensor.bytes;
  }
  info_.vocabulary = static_cast<uint32_t>(spec_.vocabulary);
  info_.layers = static_cast<uint32_t>(spec_.layers);
  info_.state_bytes = static_cast<uint64_t>(state_spec_.bytes());
  info_.slot_bytes = static_cast<uint64_t>(SlotBytes(state_spec_));
  for (const StateTensor& tensor : state_spec_.tensors) {
    info_.state.push_back(
        {.name = tensor.name,
         .shape = tensor.shape,
         .bytes = static_cast<uint64_t>(tensor.elements()) * sizeof(float)});
  }
  info_.trained_length = spec_.trained_length;
  info_.positions_max = spec_.positions_max;
  info_.byte_tokens = !checkpoint.has_tokenizer() && info_.vocabulary >= 256;
  info_.start_token = spec_.start_token;
  info_.notes = spec_.notes;
}

void Model::Embed(const uint32_t* tokens, int64_t count) {
  const int64_t hidden = spec_.hidden;
  for (int64_t t = 0; t < count; ++t) {
    std::memcpy(residual_.data() + t * hidden,
                embedding_.data() + tokens[t] * hidden,
                hidden * sizeof(float));
  }
  if (first_norm_ == nullptr) return;
  Norm(first_norm_->Args(),
       {residual_.data(), hidden},
       residual_.data(),
       0,
       count);
}

void Model::AddAndNorm(const NormWeights& norm, int64_t tokens) {
  ParallelFor(
      tokens, int64_t{4} * spec_.hidden, [&](int64_t begin, int64_t end) {
        AddNorm(norm.Args(),
                residual_.data(),
                part_.data(),
                normed_.data(),
                begin,
                end);
      });
}

const float* Model::Forward(const Batch& batch,
                            const uint32_t* tokens,
                            StatePool& pool) {
  WEIR_CHECK(batch.tokens > 0 && batch.tokens <= options_.pass_tokens_max);
  Embed(tokens, batch.tokens);
  Norm(parts_[0].norm.Args(),
       {residual_.data(), spec_.hidden},
       normed_.data(),
       0,
       batch.tokens);
  for (size_t i = 0; i < parts_.size(); ++i) {
    const LayerPart& part = parts_[i];
    part.mixer->Forward({.batch = &batch,
                         .x = normed_.data(),
                         .state = {.pool = &pool, .first = part.state},
                         .shared = shared_.data()},
                        workspace_.data(),
                        part_.data());
    AddAndNorm(i + 1 < parts_.size() ? parts_[i + 1].norm : final_norm_,
               batch.tokens);
  }
  return normed_.data();
}

void Model::Logits(const float* outputs, int64_t rows, float* logits) const {
  MatMul({outputs, spec_.hidden},
         rows,
         spec_.hidden,
         head().data(),
         spec_.vocabulary,
         /*bias=*/nullptr,
         logits);
  if (spec_.logit_cap > 0) {
    const int64_t width = spec_.vocabulary;
    ParallelFor(rows, 8 * width, [&](int64_t begin, int64_t end) {
      SoftCap(logits + begin * width, (end - begin) * width, spec_.logit_cap);
    });
  }
}

}  // namespace weir::engine
