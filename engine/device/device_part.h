// SPDX-License-Identifier: Apache-2.0
//
// A layer's part on a GPU: what Mixer is on the CPU, made from one.
//
// Threads: the step thread. Forward only puts work on the stream, takes no
// memory, and nothing in it depends on the batch's contents but by device
// memory, so that a step can be captured.
#pragma once

#include <cuda_runtime_api.h>

#include <cstddef>
#include <cstdint>
#include <vector>

#include "absl/status/status.h"
#include "engine/device/products.h"
#include "engine/kernels/pointwise.h"
#include "engine/state/device_pool.h"

namespace weir::engine {

// Rows of at most so many tokens are fed token by token, others in chunks.
inline constexpr int64_t kShortRowTokensMax = 32;

// The rows of one pass. Row r owns tokens [row_starts[r], row_starts[r + 1]);
// the short rows stand first. Arrays lie in device memory.
struct DeviceBatch {
  int32_t rows = 0;
  int32_t short_rows = 0;
  int32_t short_tokens_max = 1;         // of a short row
  int64_t short_tokens = 0;             // of all short rows together
  int64_t tokens = 0;                   // of all rows
  int32_t longest_row = 0;              // tokens
  const int32_t* row_starts = nullptr;  // [rows + 1]
  const int32_t* slots = nullptr;       // [rows]; -1: padding
  const uint32_t* consumed = nullptr;   // [rows], DevicePool::ConsumedMark
};

struct DeviceInput {
  const DeviceBatch* batch = nullptr;
  // [tokens, hidden], fp32; Forward adds to it.
  float* residual = nullptr;
  NormArgs norm;         // of the residual stream, before the part
  void* rows = nullptr;  // scratch for a norm's rows, [padded tokens, hidden]
  DevicePool* pool = nullptr;
  size_t state = 0;  // the part's first tensor in the pool
  // Of State() and of the rounding to it.
  StateNumber state_number = StateNumber::kFloat32;
  void* workspace = nullptr;  // workspace_bytes(batch->tokens), aligned to 256
  // [padded tokens, shared_floats of the model], contiguous: what one layer
  // leaves for those after it in the same pass.
  float* shared = nullptr;
  Products* products = nullptr;
  cudaStream_t stream = nullptr;
};

class DevicePart {
 public:
  virtual ~DevicePart() = default;

  // What a session holds, with names that follow the layer's prefix: the
  // recurrent state of `number`, if the part's kernels take it so.
  virtual std::vector<DeviceTensor> State(StateNumber number) const {
    static_cast<void>(number);
    return {};
  }
  // Of a pass of at most so many tokens.
  virtual int64_t workspace_bytes(int64_t tokens) const = 0;
  // Floats of DeviceInput::shared that it uses for each token.
  virtual int64_t shared_floats() const { return 0; }
  // residual += part(norm(residual)). INTERNAL.
  virtual absl::Status Forward(const DeviceInput& input) const = 0;
};

// Arrays within a workspace, one behind the other, each aligned to 256 bytes.
// Without a base, to count their bytes: their addresses are no memory's, but
// not null, since what an array's shape is may hang on whether there is one.
class Workspace {
 public:
  explicit Workspace(void* base)
      : base_(base == nullptr ? kAlignment
                              : reinterpret_cast<uintptr_t>(base)) {}

  void* Take(int64_t bytes) {
    const uintptr_t at = base_ + static_cast<uintptr_t>(bytes_);
    bytes_ += (bytes + kAlignment - 1) / kAlignment * kAlignment;
    return reinterpret_cast<void*>(at);
  }
  // Of all that was taken.
  int64_t bytes() const { return bytes_; }

 private:
  static constexpr int64_t kAlignment = 256;

  const uintptr_t base_;
  int64_t bytes_ = 0;
};

inline int64_t NumberBytes(StateNumber number) {
  return number == StateNumber::kFloat32 ? 4 : 2;
}

// y = norm(residual) W^T: `args` without its source, rows in `input.rows`.
absl::Status MultiplyNorm(const DeviceInput& input, ProductArgs args);
// residual += x W^T.
absl::Status AddProduct(const DeviceInput& input, ProductArgs args);

}  // namespace weir::engine
