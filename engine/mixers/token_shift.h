// SPDX-License-Identifier: Apache-2.0
//
// RWKV's token shift as a part of mixers: the input of each token towards that
// of the one before it, by learned shares. Its state is one row, the last
// input.
//
// Threads: as mixer.h.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "engine/mixers/buffer.h"
#include "engine/mixers/linear.h"
#include "engine/mixers/mixer.h"

namespace weir::engine {

class TokenShift {
 public:
  TokenShift(int32_t channels, int32_t mixes);

  // The share of mix `index`, stored with `shape`.
  WeightSlot Mix(std::string name, std::vector<int64_t> shape, int32_t index);
  // Where the checkpoint holds the shares of the token itself. Called once,
  // when the weights are there.
  void ComplementMixes();
  StateTensor State(std::string name) const;

  int32_t channels() const { return channels_; }
  const Buffer& mixes() const { return mixes_; }  // [mixes, channels]

  // delta [tokens, channels], contiguous: the input of the token before less
  // the token's. Reads and writes the slots' tensor `tensor` of the pool.
  void Shift(const MixerInput& input, size_t tensor, float* delta) const;
  // out [tokens, channels] = x + delta (mix + add), add [T][channels] or none;
  // contiguous. out may be add.
  void Lerp(const MixerInput& input,
            const float* delta,
            int32_t index,
            TokenRows add,
            float* out) const;

 private:
  const int32_t channels_;
  Buffer mixes_;  // [mixes, channels]
};

}  // namespace weir::engine
