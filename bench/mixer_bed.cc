// SPDX-License-Identifier: Apache-2.0
#include "bench/mixer_bed.h"

#include <cmath>
#include <random>
#include <utility>

#include "base/status_macros.h"
#include "engine/kernels/pointwise.h"
#include "engine/model/config.h"

namespace weir::bench {
namespace {

using engine::Buffer;
using engine::WeightSlot;

bool EndsWith(const std::string& name, const char* end) {
  return name.size() >= std::char_traits<char>::length(end) &&
         name.compare(name.size() - std::char_traits<char>::length(end),
                      std::string::npos,
                      end) == 0;
}

int64_t Elements(const WeightSlot& slot) {
  int64_t count = 1;
  for (int64_t extent : slot.shape) count *= extent;
  return count;
}

// Values as models start with them: decays in range, activations of order one.
float Draw(const WeightSlot& slot, std::mt19937_64& random) {
  std::uniform_real_distribution<float> uniform(0.0F, 1.0F);
  if (EndsWith(slot.name, "A_log")) {
    return std::log(1.0F + 15.0F * uniform(random));
  }
  if (EndsWith(slot.name, "dt_bias") || EndsWith(slot.name, "dt_proj.bias")) {
    return std::log(std::expm1(0.001F * std::pow(100.0F, uniform(random))));
  }
  if (slot.shape.size() == 1 && EndsWith(slot.name, ".weight")) return 1.0F;
  if (slot.shape.size() == 1) return 0.1F * uniform(random);
  std::normal_distribution<float> normal;
  return normal(random) / std::sqrt(static_cast<float>(slot.shape.back()));
}

void Fill(const WeightSlot& slot, std::mt19937_64& random) {
  const int64_t taps = slot.shape.back();
  for (int64_t i = 0; i < Elements(slot); ++i) {
    const int64_t at =
        slot.taps_pitch == 0 ? i : i % taps * slot.taps_pitch + i / taps;
    slot.buffer->data()[slot.offset + at] = Draw(slot, random);
  }
}

}  // namespace

absl::StatusOr<std::unique_ptr<MixerBed>> MixerBed::Create(
    const std::string& config) {
  WEIR_ASSIGN_OR_RETURN(engine::DecoderSpec spec,
                        engine::ParseConfig(config, "config.json"));
  std::unique_ptr<MixerBed> bed(new MixerBed(std::move(spec)));
  WEIR_RETURN_IF_ERROR(bed->FillWeights());
  return bed;
}

MixerBed::MixerBed(engine::DecoderSpec spec) : spec_(std::move(spec)) {
  // The mixer comes first in a layer, the MLP after it.
  mixer_ = std::move(spec_.make_layer(spec_.layers - 1).front().part);
}

absl::Status MixerBed::FillWeights() {
  std::mt19937_64 random(1);
  std::vector<WeightSlot> slots = mixer_->Weights();
  slots.insert(slots.end(), spec_.shared.begin(), spec_.shared.end());
  for (const WeightSlot& slot : slots) {
    WEIR_RETURN_IF_ERROR(slot.buffer->Allocate());
    Fill(slot, random);
  }
  mixer_->Prepare();
  return absl::OkStatus();
}

absl::Status MixerBed::Hold(int32_t rows, int64_t tokens) {
  pool_.reset();
  slots_.clear();
  WEIR_ASSIGN_OR_RETURN(
      pool_,
      engine::StatePool::Create({mixer_->State()},
                                {.slots = rows, .mark_freed = false}));
  for (int32_t row = 0; row < rows; ++row) {
    WEIR_ASSIGN_OR_RETURN(const int32_t slot, pool_->Acquire());
    slots_.push_back(slot);
  }
  x_ = Buffer(tokens * spec_.hidden);
  out_ = Buffer(tokens * spec_.hidden);
  workspace_ = Buffer(tokens * mixer_->workspace_floats());
  shared_ = Buffer(tokens * mixer_->shared_floats());
  for (Buffer* buffer : {&x_, &out_, &workspace_, &shared_}) {
    WEIR_RETURN_IF_ERROR(buffer->Allocate());
  }
  std::mt19937_64 random(2);
  std::normal_distribution<float> normal;
  for (int64_t i = 0; i < x_.size(); ++i) x_.data()[i] = normal(random);
  return absl::OkStatus();
}

absl::Status MixerBed::Forward(int32_t rows, int64_t tokens) {
  row_starts_.clear();
  for (int32_t row = 0; row <= rows; ++row) {
    row_starts_.push_back(static_cast<int32_t>(row * tokens));
  }
  const engine::Batch batch = {
      .rows = rows,
      .tokens = rows * tokens,
      .row_starts = row_starts_.data(),
      .slots = slots_.data(),
      .short_rows = engine::IsShortRow(tokens) ? rows : 0};
  const engine::MixerInput input = {.batch = &batch,
                                    .x = x_.data(),
                                    .state = {.pool = pool_.get()},
                                    .shared = shared_.data()};
  mixer_->Forward(input, workspace_.data(), out_.data());
  // Of the last token: what was not finite before it has reached it.
  if (!engine::AllFinite(out_.data() + (batch.tokens - 1) * spec_.hidden,
                         spec_.hidden)) {
    return absl::InternalError("an output is not finite");
  }
  return absl::OkStatus();
}

int64_t MixerBed::state_bytes() const {
  return engine::StateSpec{mixer_->State()}.bytes();
}

int64_t MixerBed::projection_weights() const {
  int64_t weights = 0;
  for (const WeightSlot& slot : mixer_->Weights()) {
    const bool matrix = slot.shape.size() == 2 && EndsWith(slot.name, "weight");
    if (matrix) weights += Elements(slot);
  }
  return weights;
}

}  // namespace weir::bench
