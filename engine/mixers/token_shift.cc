// SPDX-License-Identifier: Apache-2.0
#include "engine/mixers/token_shift.h"

#include <utility>

#include "engine/kernels/token_shift.h"
#include "engine/mixers/parallel.h"

namespace weir::engine {

TokenShift::TokenShift(int32_t channels, int32_t mixes)
    : channels_(channels), mixes_(int64_t{mixes} * channels) {}

WeightSlot TokenShift::Mix(std::string name,
                           std::vector<int64_t> shape,
                           int32_t index) {
  return {.name = std::move(name),
          .shape = std::move(shape),
          .buffer = &mixes_,
          .offset = int64_t{index} * channels_};
}

void TokenShift::ComplementMixes() {
  for (int64_t i = 0; i < mixes_.size(); ++i) {
    mixes_.data()[i] = 1.0F - mixes_.data()[i];
  }
}

StateTensor TokenShift::State(std::string name) const {
  return {.name = std::move(name), .shape = {channels_}};
}

void TokenShift::Shift(const MixerInput& input,
                       size_t tensor,
                       float* delta) const {
  const Batch& batch = *input.batch;
  StatePool& pool = *input.state.pool;
  const TokenShiftArgs args = {.rows = batch.rows,
                               .channels = channels_,
                               .row_starts = batch.row_starts,
                               .slots = batch.slots,
                               .x = {input.x, channels_},
                               .delta = delta,
                               .state = pool.base(tensor),
                               .state_stride = pool.stride(tensor)};
  ParallelFor(
      batch.rows * ChannelBlocks(channels_),
      int64_t{kChannelBlock} * (batch.tokens / batch.rows),
      [&](int64_t begin, int64_t end) { ShiftTokens(args, begin, end); });
}

void TokenShift::Lerp(const MixerInput& input,
                      const float* delta,
                      int32_t index,
                      TokenRows add,
                      float* out) const {
  const LerpArgs args = {.channels = channels_,
                         .x = {input.x, channels_},
                         .delta = {delta, channels_},
                         .mix = mixes_.data() + int64_t{index} * channels_,
                         .add = add,
                         .out = out};
  ParallelFor(input.batch->tokens, channels_, [&](int64_t begin, int64_t end) {
    engine::Lerp(args, begin, end);
  });
}

}  // namespace weir::engine
