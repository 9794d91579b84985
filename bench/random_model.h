// SPDX-License-Identifier: Apache-2.0
//
// Model folders with random weights, for measurements that need a size and no
// quality. The same seed gives the same files.
#pragma once

#include <cstdint>
#include <filesystem>

#include "absl/status/status.h"

namespace weir::bench {

// A Gated DeltaNet in flash-linear-attention's format, fp32: head_dim K = V =
// hidden / heads, SwiGLU of 11/4 hidden, tied embeddings of 256 bytes.
struct DeltaNetShape {
  int32_t layers = 8;
  int32_t hidden = 1024;
  int32_t heads = 8;
};

// A Mamba-2 in transformers' format, fp32: inner width 2 hidden, heads of 64,
// state of 128, one group, tied embeddings of 256 bytes.
struct Mamba2Shape {
  int32_t layers = 8;
  int32_t hidden = 256;
};

// Writes config.json and model.safetensors into `folder`, which is made.
absl::Status WriteDeltaNet(const DeltaNetShape& shape,
                           uint64_t seed,
                           const std::filesystem::path& folder);
absl::Status WriteMamba2(const Mamba2Shape& shape,
                         uint64_t seed,
                         const std::filesystem::path& folder);

}  // namespace weir::bench
