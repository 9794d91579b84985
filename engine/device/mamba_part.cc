// SPDX-License-Identifier: Apache-2.0
#include "engine/device/mamba_part.h"

#include <algorithm>
#include <cmath>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "base/status_macros.h"
#include "engine/device/mixer_front.h"
#include "engine/kernels/cuda/selective_scan.h"

namespace weir::engine {
namespace {

// Rows of 16 bytes, in bf16.
constexpr int64_t kStep = 8;

int64_t Whole(int64_t width) { return (width + kStep - 1) / kStep * kStep; }

// Columns of a token's selection: r, then B and C, then what fills its row.
// Columns of fill are products with weights of zero.
struct SelectionColumns {
  explicit SelectionColumns(const MambaShape& shape)
      : rank(Whole(shape.dt_rank)),
        all(Whole(rank + int64_t{2} * shape.state_dim)) {}

  int64_t rank;  // of r, with its fill
  int64_t all;
};

// Rows [first_row, first_row + rows) of `to` begin with those of `from` [rows,
// columns]; what nobody fills stays zero. RESOURCE_EXHAUSTED.
absl::Status FillRows(const float* from,
                      int64_t rows,
                      int64_t columns,
                      int64_t first_row,
                      Linear& to) {
  const WeightSlot slot = to.Rows("", first_row, rows);
  WEIR_RETURN_IF_ERROR(slot.buffer->Allocate());
  float* row = slot.buffer->data() + slot.offset;
  for (int64_t i = 0; i < rows; ++i, row += to.inputs()) {
    std::copy_n(from + i * columns, columns, row);
  }
  return absl::OkStatus();
}

class MambaPart final : public DevicePart {
 public:
  struct Weights {
    MixerFront front;
    DeviceLinear selection;  // [columns, inner]
    DeviceLinear dt;         // [inner, rank]
    DeviceLinear out;
    DeviceMemory dt_bias;
    DeviceMemory rate;
    DeviceMemory d;
  };

  MambaPart(const MambaShape& shape, StateNumber number, Weights weights)
      : shape_(shape),
        columns_(shape),
        number_(number),
        weights_(std::move(weights)) {}

  std::vector<DeviceTensor> State(StateNumber number) const override {
    static_cast<void>(number);
    std::vector<DeviceTensor> tensors = {
        {"recurrent", {shape_.state_dim, shape_.inner}, StateNumber::kFloat32}};
    for (DeviceTensor& tensor : weights_.front.State()) {
      tensors.push_back(std::move(tensor));
    }
    return tensors;
  }

  int64_t workspace_bytes(int64_t tokens) const override {
    return Place(nullptr, tokens).bytes;
  }

  absl::Status Forward(const DeviceInput& input) const override {
    const Arrays arrays = Place(input.workspace, input.batch->tokens);
    const MixerFront& front = weights_.front;
    WEIR_RETURN_IF_ERROR(front.Forward(input, arrays.front, input.state + 1));
    WEIR_RETURN_IF_ERROR(
        weights_.selection.OfFloats(input,
                                    front.Mixed(arrays.front, 0),
                                    Activation::kNone,
                                    arrays.narrow,
                                    arrays.selected));
    if (shape_.mixer_eps != 0) {
      WEIR_RETURN_IF_ERROR(NormalizeSelection(input, arrays));
    }
    WEIR_RETURN_IF_ERROR(weights_.dt.OfFloats(input,
                                              Selected(arrays, 0),
                                              Activation::kNone,
                                              arrays.narrow_rank,
                                              arrays.dt));
    WEIR_RETURN_IF_ERROR(CudaStatus(Scan(input, arrays), "a mixer's scan"));
    return weights_.out.AddToResidual(input, arrays.gated);
  }

 private:
  struct Arrays {
    MixerFront::Arrays front;
    void* narrow = nullptr;       // x [tokens, inner], rounded
    float* selected = nullptr;    // [tokens, columns]
    void* narrow_rank = nullptr;  // r [tokens, rank], rounded
    float* dt = nullptr;          // [tokens, inner]
    void* gated = nullptr;        // [tokens, inner] of the products' number
    float* scan = nullptr;
    int64_t bytes = 0;
  };

  TokenRows Selected(const Arrays& arrays, int64_t column) const {
    return {arrays.selected + column, columns_.all};
  }
  Arrays Place(void* base, int64_t tokens) const;
  absl::Status NormalizeSelection(const DeviceInput& input,
                                  const Arrays& arrays) const;
  cudaError_t Scan(const DeviceInput& input, const Arrays& arrays) const;

  const MambaShape shape_;
  const SelectionColumns columns_;
  const StateNumber number_;
  const Weights weights_;
};

MambaPart::Arrays MambaPart::Place(void* base, int64_t tokens) const {
  const int64_t rows = PaddedTokens(tokens);
  Workspace workspace(base);
  const auto take = [&](int64_t floats) {
    return static_cast<float*>(
        workspace.Take(floats * static_cast<int64_t>(sizeof(float))));
  };
  const auto take_rounded = [&](int64_t numbers) {
    return workspace.Take(rows * numbers * NumberBytes(number_));
  };
  Arrays arrays;
  arrays.front = weights_.front.Place(workspace, rows);
  arrays.narrow = take_rounded(shape_.inner);
  arrays.selected = take(rows * columns_.all);
  arrays.narrow_rank = take_rounded(columns_.rank);
  arrays.dt = take(rows * shape_.inner);
  arrays.gated = take_rounded(shape_.inner);
  arrays.scan =
      take(ScanWorkspaceFloats(tokens, shape_.inner, shape_.state_dim));
  arrays.bytes = workspace.bytes();
  return arrays;
}

// Each over its root mean square.
absl::Status MambaPart::NormalizeSelection(const DeviceInput& input,
                                           const Arrays& arrays) const {
  const auto normalize = [&](int32_t heads, int32_t dim, int64_t column) {
    const auto width = static_cast<float>(dim);
    return NormalizeHeadRows({.norm = HeadNorm::kL2,
                              .heads = heads,
                              .dim = dim,
                              .x = arrays.selected + column,
                              .stride = columns_.all,
                              .eps = width * shape_.mixer_eps,
                              .scale = std::sqrt(width)},
                             input.batch->tokens,
                             input.stream);
  };
  WEIR_RETURN_IF_ERROR(
      CudaStatus(normalize(1, shape_.dt_rank, 0), "the norm of time steps"));
  return CudaStatus(normalize(2, shape_.state_dim, columns_.rank),
                    "the norm of B and C");
}

cudaError_t MambaPart::Scan(const DeviceInput& input,
                            const Arrays& arrays) const {
  const DeviceBatch& batch = *input.batch;
  const MixerFront& front = weights_.front;
  return ScanRows(
      {.scan = {.rows = batch.rows,
                .channels = shape_.inner,
                .states = shape_.state_dim,
                .row_starts = batch.row_starts,
                .slots = batch.slots,
                .dt = {arrays.dt, shape_.inner},
                .x = front.Mixed(arrays.front, 0),
                .b = Selected(arrays, columns_.rank),
                .c = Selected(arrays, columns_.rank + shape_.state_dim),
                .z = front.Column(arrays.front, shape_.inner),
                .dt_bias = weights_.dt_bias.as<float>(),
                .rate = weights_.rate.as<float>(),
                .d = weights_.d.as<float>(),
                .out_stride = shape_.inner,
                .state = static_cast<float*>(input.pool->base(input.state)),
                .state_stride = input.pool->stride(input.state)},
       .tokens = batch.tokens,
       .longest_row = batch.longest_row,
       .consumed = batch.consumed,
       .number = number_,
       .out = arrays.gated,
       .workspace = arrays.scan},
      input.stream);
}

absl::StatusOr<DeviceLinear> TakeSelection(const Mamba& from,
                                           DeviceWeights& weights) {
  const MambaShape& of = from.shape();
  const SelectionColumns columns(of);
  Linear selection(of.inner, columns.all, /*has_bias=*/false);
  const float* rows = from.selection().data();
  WEIR_RETURN_IF_ERROR(FillRows(rows, of.dt_rank, of.inner, 0, selection));
  WEIR_RETURN_IF_ERROR(FillRows(rows + int64_t{of.dt_rank} * of.inner,
                                int64_t{2} * of.state_dim,
                                of.inner,
                                columns.rank,
                                selection));
  return DeviceLinear::Take(selection, "the inner width", weights);
}

absl::StatusOr<DeviceLinear> TakeDt(const Mamba& from, DeviceWeights& weights) {
  const MambaShape& of = from.shape();
  Linear dt(SelectionColumns(of).rank, of.inner, /*has_bias=*/false);
  WEIR_RETURN_IF_ERROR(FillRows(
      from.dt_projection().weight().data(), of.inner, of.dt_rank, 0, dt));
  return DeviceLinear::Take(dt, "the time step's rank", weights);
}

}  // namespace

absl::StatusOr<std::unique_ptr<DevicePart>> MakeMambaPart(
    const Mamba& from, DeviceWeights& weights) {
  const MambaShape& of = from.shape();
  if (of.state_dim > kScanStatesMax) {
    return absl::UnimplementedError(
        absl::StrCat("on a GPU the state of a channel, ",
                     of.state_dim,
                     ", may be at most ",
                     kScanStatesMax));
  }
  const FrontShape front = {
      .width = of.inner, .conv_width = of.conv_width, .silu_end = of.inner};
  MambaPart::Weights taken;
  WEIR_ASSIGN_OR_RETURN(taken.front,
                        MixerFront::Take(front,
                                         from.in_projection(),
                                         &from.conv(),
                                         &from.conv_bias(),
                                         weights));
  WEIR_ASSIGN_OR_RETURN(taken.selection, TakeSelection(from, weights));
  WEIR_ASSIGN_OR_RETURN(taken.dt, TakeDt(from, weights));
  WEIR_ASSIGN_OR_RETURN(
      taken.out,
      DeviceLinear::Take(from.out_projection(), "the inner width", weights));
  WEIR_ASSIGN_OR_RETURN(taken.dt_bias, weights.Floats(from.dt_bias()));
  WEIR_ASSIGN_OR_RETURN(taken.rate, weights.Floats(from.rate()));
  WEIR_ASSIGN_OR_RETURN(taken.d, weights.Floats(from.d()));
  return std::make_unique<MambaPart>(of, weights.number(), std::move(taken));
}

}  // namespace weir::engine
