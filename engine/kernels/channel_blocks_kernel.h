// SPDX-License-Identifier: Apache-2.0
//
// The walk over work items that are blocks of channels.
//
// Threads: plain functions. Included by the target files only.
#pragma once

#include <cstdint>

#include "engine/kernels/channel_blocks.h"

namespace weir::engine {
namespace {

// f(row, first channel, channels) for items [begin, end); the blocks of one row
// that lie in it come in one piece.
template <typename F>
void ForRowChannels(int32_t channels, int64_t begin, int64_t end, F f) {
  const int64_t blocks = ChannelBlocks(channels);
  for (int64_t item = begin; item < end;) {
    const int64_t row = item / blocks;
    const int64_t row_items = row * blocks;
    const int64_t next = row_items + blocks < end ? row_items + blocks : end;
    const int64_t first = (item - row_items) * kChannelBlock;
    const int64_t last = (next - row_items) * kChannelBlock;
    f(static_cast<int32_t>(row),
      static_cast<int32_t>(first),
      static_cast<int32_t>((last < channels ? last : channels) - first));
    item = next;
  }
}

}  // namespace
}  // namespace weir::engine
