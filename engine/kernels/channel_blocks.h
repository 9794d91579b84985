// SPDX-License-Identifier: Apache-2.0
//
// How kernels whose channels do not meet are cut into work: a row's channels in
// blocks, so that one long row is work for many threads.
//
// Threads: plain functions.
#pragma once

#include <cstdint>

namespace weir::engine {

// Whole vectors on every target, and whole cache lines.
inline constexpr int32_t kChannelBlock = 64;

// Blocks of a row. A kernel's work items are rows * ChannelBlocks(channels),
// item = row * blocks + block.
inline int64_t ChannelBlocks(int64_t channels) {
  return (channels + kChannelBlock - 1) / kChannelBlock;
}

}  // namespace weir::engine
