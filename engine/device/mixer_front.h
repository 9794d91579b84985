// SPDX-License-Identifier: Apache-2.0
//
// What most mixers begin with on a GPU: one product for all of a layer's
// projections, and for the columns that become queries, keys and values the
// short convolution, activations, and the norm of heads or a factor.
//
// Threads: as device_part.h.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "engine/device/device_linear.h"
#include "engine/kernels/cuda/mixer_rows.h"
#include "engine/mixers/qkv_projection.h"

namespace weir::engine {

// Columns of a token's projections [column, column + width) are mixed; in what
// comes of them q, k and v lie where they say.
struct FrontShape {
  int64_t column = 0;
  int32_t width = 0;
  int32_t conv_width = 0;  // 0: no convolution
  // Channels of the mixed columns: with SiLU, and then with `map`.
  int32_t silu_begin = 0;
  int32_t silu_end = 0;
  int32_t mapped = 0;
  Activation map = Activation::kNone;
  int32_t key_heads = 0;
  int32_t key_dim = 0;
  int32_t writes = 1;  // keys of a token
  int64_t q = 0;
  int64_t k = 0;
  int64_t v = 0;
  // Of q and k; none: q is scaled alone.
  std::optional<HeadNorm> norm = {};
  float norm_eps = 0;
  float query_scale = 1;
};

// The front of a mixer that has its queries, keys and values from `qkv`.
FrontShape FrontOf(const QkvProjection& qkv, std::optional<HeadNorm> norm);

// Of a mixer of queries, keys and values next to each other, as many heads of
// each, that needs no convolution.
FrontShape PlainFront(int32_t heads, int32_t key_dim, int32_t value_dim);

// Where the rows of a batch lie, as kernels take it.
RaggedRows RaggedOf(const DeviceBatch& batch);

class MixerFront {
 public:
  struct Arrays {
    float* projected = nullptr;  // [tokens, columns]
    float* mixed = nullptr;      // [tokens, width]
  };

  MixerFront() = default;
  // RESOURCE_EXHAUSTED, INTERNAL; UNIMPLEMENTED for widths that no product
  // takes. conv [W, width] and conv_bias [width] may be null.
  static absl::StatusOr<MixerFront> Take(const FrontShape& shape,
                                         const Linear& projection,
                                         const Buffer* conv,
                                         const Buffer* conv_bias,
                                         DeviceWeights& weights);
  static absl::StatusOr<MixerFront> Take(const QkvProjection& from,
                                         std::optional<HeadNorm> norm,
                                         DeviceWeights& weights);

  const FrontShape& shape() const { return shape_; }
  int64_t columns() const { return projection_.outputs(); }
  // "conv", or nothing.
  std::vector<DeviceTensor> State() const;
  Arrays Place(Workspace& workspace, int64_t padded_tokens) const;
  // `window` is the pool's tensor of State().
  absl::Status Forward(const DeviceInput& input,
                       const Arrays& arrays,
                       size_t window) const;

  // Of the projections, from a column on; of what was mixed, from a channel on.
  TokenRows Column(const Arrays& arrays, int64_t column) const {
    return {arrays.projected + column, columns()};
  }
  TokenRows Mixed(const Arrays& arrays, int64_t channel) const {
    return {arrays.mixed + channel, shape_.width};
  }

 private:
  absl::Status NormalizeQueriesAndKeys(const DeviceInput& input,
                                       const Arrays& arrays) const;

  FrontShape shape_;
  DeviceLinear projection_;
  DeviceMemory conv_;
  DeviceMemory conv_bias_;
};

}  // namespace weir::engine
