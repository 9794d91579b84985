// SPDX-License-Identifier: Apache-2.0
#include "engine/mixers/linformer.h"

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <limits>
#include <memory>
#include <string>
#include <utility>

#include "engine/mixers/fla_decoder.h"
#include "engine/mixers/parallel.h"

namespace weir::engine {
namespace {

// A position is held as a float, which counts exactly beyond this.
constexpr int64_t kPositionsMax = 1 << 20;
// Leaves nothing of a state.
constexpr float kForgetAll = -1e4F;
// Of the tensors of State().
constexpr size_t kPosition = 2;

// The position that a state holds; -1 for one that no session can have.
int64_t ReadPosition(float held, int64_t n_max) {
  return held >= 0 && held <= static_cast<float>(n_max)
             ? static_cast<int64_t>(held)
             : -1;
}

int64_t CompressFloats(const LinformerShape& shape) {
  return int64_t{shape.n_max} * shape.slots *
         (shape.sharing == SlotSharing::kNone ? shape.qkv.heads : 1);
}

}  // namespace

Linformer::Linformer(const LinformerShape& shape)
    : shape_(shape),
      qkv_(shape.qkv, /*bias_apart=*/!shape.project_first),
      compress_k_(CompressFloats(shape)),
      compress_v_(
          shape.sharing == SlotSharing::kKeyValue ? 0 : CompressFloats(shape)) {
}

std::vector<WeightSlot> Linformer::Weights() {
  std::vector<int64_t> shape = {shape_.n_max, shape_.slots};
  if (shape_.sharing == SlotSharing::kNone) {
    shape.insert(shape.begin(), shape_.qkv.heads);
  }
  std::vector<WeightSlot> tensors = qkv_.Weights();
  if (shape_.sharing == SlotSharing::kKeyValue) {
    tensors.push_back(
        {.name = "compress", .shape = shape, .buffer = &compress_k_});
    return tensors;
  }
  tensors.push_back(
      {.name = "compress_k", .shape = shape, .buffer = &compress_k_});
  tensors.push_back(
      {.name = "compress_v", .shape = shape, .buffer = &compress_v_});
  return tensors;
}

SlotShape Linformer::slot_shape() const {
  return {.heads = shape_.qkv.heads,
          .key_dim = shape_.qkv.key_dim,
          .value_dim = shape_.qkv.value_dim,
          .slots = shape_.slots};
}

std::vector<StateTensor> Linformer::State() const {
  std::vector<StateTensor> tensors = SlotStates(slot_shape());
  tensors.push_back({.name = "position", .shape = {1}});
  return tensors;
}

int64_t Linformer::workspace_floats() const {
  return qkv_.workspace_floats() + 3 * slots() + shape_.qkv.heads +
         qkv_.values();
}

void Linformer::CopyRows(const Buffer& compress,
                         int64_t position,
                         float* to) const {
  const int64_t width = shape_.slots;
  if (position < 0 || position >= shape_.n_max) {
    std::fill_n(to, slots(), std::numeric_limits<float>::quiet_NaN());
    return;
  }
  const bool shared = shape_.sharing != SlotSharing::kNone;
  for (int64_t head = 0; head < shape_.qkv.heads; ++head) {
    const int64_t row = (shared ? 0 : head * shape_.n_max) + position;
    std::copy_n(compress.data() + row * width, width, to + head * width);
  }
}

void Linformer::Place(const MixerInput& input, const Parts& parts) const {
  const Batch& batch = *input.batch;
  const int64_t heads = shape_.qkv.heads;
  const int64_t n_max = shape_.n_max;
  const size_t tensor = input.state.first + kPosition;
  const Buffer& values =
      shape_.sharing == SlotSharing::kKeyValue ? compress_k_ : compress_v_;
  for (int32_t row = 0; row < batch.rows; ++row) {
    if (batch.slots[row] < 0) continue;
    float* held = input.state.pool->base(tensor) +
                  batch.slots[row] * input.state.pool->stride(tensor);
    int64_t position = ReadPosition(*held, n_max);
    for (int64_t t = batch.row_starts[row]; t < batch.row_starts[row + 1];
         ++t) {
      const bool begins = shape_.new_segment && position == 0;
      std::fill_n(parts.log2_decay + t * heads, heads, begins ? kForgetAll : 0);
      CopyRows(compress_k_, position, parts.key_write + t * slots());
      CopyRows(values, position, parts.value_write + t * slots());
      if (position >= 0 && position < n_max) ++position;
      if (shape_.new_segment && position == n_max) position = 0;
    }
    *held = static_cast<float>(position);
  }
}

void Linformer::Forward(const MixerInput& input,
                        float* workspace,
                        float* out) const {
  const int64_t tokens = input.batch->tokens;
  const int64_t heads = shape_.qkv.heads;
  Parts parts;
  parts.key_write = workspace + tokens * qkv_.workspace_floats();
  parts.value_write = parts.key_write + tokens * slots();
  parts.weights = parts.value_write + tokens * slots();
  parts.log2_decay = parts.weights + tokens * slots();
  parts.out = parts.log2_decay + tokens * heads;

  const PlainQkv::Result qkv = qkv_.Forward(input, workspace);
  const float scale = 1.0F / std::sqrt(static_cast<float>(shape_.qkv.key_dim));
  for (int64_t t = 0; t < tokens; ++t) {
    float* q = qkv.q + t * qkv.stride;
    for (int64_t i = 0; i < qkv_.keys(); ++i) q[i] *= scale;
  }
  Place(input, parts);
  RunSlots(input,
           {.shape = slot_shape(),
            .q = {qkv.q, qkv.stride},
            .k = {qkv.k, qkv.stride},
            .v = {qkv.v, qkv.stride},
            .key_write = {parts.key_write, slots()},
            .value_write = {parts.value_write, slots()},
            .decay_by_slot = false,
            .log2_decay = {parts.log2_decay, heads},
            .weights = parts.weights,
            .out = parts.out});
  if (const float* bias = qkv_.value_bias(); bias != nullptr) {
    for (int64_t t = 0; t < tokens; ++t) {
      float* o = parts.out + t * qkv_.values();
      for (int64_t i = 0; i < qkv_.values(); ++i) o[i] += bias[i];
    }
  }
  qkv_.Output(parts.out, tokens, out);
}

void ReadLinformer(ConfigFields& fields, DecoderSpec& spec) {
  ReadFlaSizes(fields, spec);
  LinformerShape shape;
  shape.qkv = ReadPlainQkv(fields, spec.hidden);
  shape.slots = static_cast<int32_t>(fields.Int("num_slots", 1, kChannelsMax));
  shape.n_max = static_cast<int32_t>(fields.Int("n_max", 1, kPositionsMax));
  const std::string sharing =
      fields.OneOf("sharing", {"none", "headwise", "key_value"}, "headwise");
  shape.sharing = sharing == "none"       ? SlotSharing::kNone
                  : sharing == "headwise" ? SlotSharing::kHeadwise
                                          : SlotSharing::kKeyValue;
  shape.project_first =
      fields.OneOf("projection", {"before", "after"}, "before") == "before";
  shape.new_segment =
      fields.OneOf("past_n_max", {"refuse", "new_segment"}, "refuse") ==
      "new_segment";
  if (!shape.new_segment) {
    spec.positions_max = static_cast<uint64_t>(shape.n_max);
  }
  ReadFlaLayers(fields, spec, [shape](int32_t) {
    return std::make_unique<Linformer>(shape);
  });
}

}  // namespace weir::engine
