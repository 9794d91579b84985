// SPDX-License-Identifier: Apache-2.0
#include "engine/device/rwkv6_part.h"

#include <algorithm>
#include <array>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "base/status_macros.h"
#include "engine/device/device_linear.h"
#include "engine/device/device_low_rank.h"
#include "engine/device/device_shift.h"
#include "engine/kernels/cuda/mixer_rows.h"
#include "engine/kernels/cuda/rwkv_rows.h"

namespace weir::engine {
namespace {

class Rwkv6Part final : public DevicePart {
 public:
  struct Weights {
    DeviceShift shift;
    DeviceLinear mix_down;
    std::array<DeviceLinear, Rwkv6::kMixes> mix_up;
    DeviceLinear r;
    DeviceLinear k;
    DeviceLinear v;
    DeviceLinear g;
    DeviceLinear out;
    DeviceLowRank decay;
    DeviceMemory bonus;
    DeviceMemory norm;
    DeviceMemory norm_bias;
  };

  Rwkv6Part(const Rwkv6Shape& shape, StateNumber number, Weights weights)
      : shape_(shape), number_(number), weights_(std::move(weights)) {}

  std::vector<DeviceTensor> State(StateNumber number) const override {
    return {
        {"recurrent", {shape_.heads, shape_.value_dim, shape_.key_dim}, number},
        weights_.shift.State("shift")};
  }
  int64_t workspace_bytes(int64_t tokens) const override {
    return Place(nullptr, tokens).bytes;
  }

  absl::Status Forward(const DeviceInput& input) const override {
    const Arrays arrays = Place(input.workspace, input.batch->tokens);
    WEIR_RETURN_IF_ERROR(Mix(input, arrays));
    WEIR_RETURN_IF_ERROR(Project(input, arrays));
    WEIR_RETURN_IF_ERROR(
        CudaStatus(Recur(input, arrays), "a mixer's recurrence"));
    WEIR_RETURN_IF_ERROR(CudaStatus(Finish(input, arrays), "a mixer's norm"));
    return weights_.out.AddToResidual(input, arrays.gated);
  }

 private:
  // [tokens, ...] each.
  struct Arrays {
    DeviceShift::Arrays shift;
    float* middle = nullptr;  // five times mix_rank
    void* narrow = nullptr;   // mix_rank, of the products' number
    float* add = nullptr;     // [mixes][tokens, hidden], shift.pitch apart
    DeviceLowRank::Arrays low_rank;
    float* r = nullptr;     // keys
    float* w = nullptr;     // keys; then log2 of the decay
    float* k = nullptr;     // keys
    float* v = nullptr;     // values
    float* g = nullptr;     // values
    float* o = nullptr;     // values
    void* gated = nullptr;  // values, of the products' number
    int64_t bytes = 0;
  };

  int64_t keys() const { return int64_t{shape_.heads} * shape_.key_dim; }
  int64_t values() const { return int64_t{shape_.heads} * shape_.value_dim; }
  Arrays Place(void* base, int64_t tokens) const;
  absl::Status Mix(const DeviceInput& input, const Arrays& arrays) const;
  absl::Status Project(const DeviceInput& input, const Arrays& arrays) const;
  cudaError_t Recur(const DeviceInput& input, const Arrays& arrays) const;
  cudaError_t Finish(const DeviceInput& input, const Arrays& arrays) const;

  const Rwkv6Shape shape_;
  const StateNumber number_;
  const Weights weights_;
};

Rwkv6Part::Arrays Rwkv6Part::Place(void* base, int64_t tokens) const {
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
  arrays.shift = weights_.shift.Place(workspace, rows);
  arrays.middle = take(rows * weights_.mix_down.outputs());
  arrays.narrow = take_rounded(shape_.mix_rank);
  arrays.add = take(Rwkv6::kMixes * arrays.shift.pitch);
  arrays.low_rank = {.middle = take(rows * shape_.decay_rank),
                     .rounded = take_rounded(shape_.decay_rank)};
  for (float** part : {&arrays.r, &arrays.w, &arrays.k}) {
    *part = take(rows * keys());
  }
  for (float** part : {&arrays.v, &arrays.g, &arrays.o}) {
    *part = take(rows * values());
  }
  arrays.gated = take_rounded(values());
  arrays.bytes = workspace.bytes();
  return arrays;
}

absl::Status Rwkv6Part::Mix(const DeviceInput& input,
                            const Arrays& arrays) const {
  const DeviceShift& shift = weights_.shift;
  const size_t tensor = input.state + 1;
  WEIR_RETURN_IF_ERROR(shift.Norm(input, arrays.shift));
  WEIR_RETURN_IF_ERROR(
      shift.Mix(input, arrays.shift, tensor, Rwkv6::kMu, 1, nullptr));
  WEIR_RETURN_IF_ERROR(
      weights_.mix_down.OfRows(input,
                               shift.Mixed(arrays.shift, Rwkv6::kMu),
                               input.batch->tokens,
                               arrays.middle));
  const int64_t rank = shape_.mix_rank;
  for (int64_t mix = 0; mix < Rwkv6::kMixes; ++mix) {
    WEIR_RETURN_IF_ERROR(weights_.mix_up[static_cast<size_t>(mix)].OfFloats(
        input,
        {arrays.middle + mix * rank, Rwkv6::kMixes * rank},
        Activation::kTanh,
        arrays.narrow,
        arrays.add + mix * arrays.shift.pitch));
  }
  WEIR_RETURN_IF_ERROR(
      shift.Mix(input, arrays.shift, tensor, 0, Rwkv6::kMixes, arrays.add));
  return shift.Keep(input, arrays.shift, tensor);
}

absl::Status Rwkv6Part::Project(const DeviceInput& input,
                                const Arrays& arrays) const {
  const int64_t tokens = input.batch->tokens;
  const auto mixed = [&](Rwkv6::Mix mix) {
    return weights_.shift.Mixed(arrays.shift, mix);
  };
  WEIR_RETURN_IF_ERROR(
      weights_.r.OfRows(input, mixed(Rwkv6::kR), tokens, arrays.r));
  WEIR_RETURN_IF_ERROR(
      weights_.k.OfRows(input, mixed(Rwkv6::kK), tokens, arrays.k));
  WEIR_RETURN_IF_ERROR(
      weights_.v.OfRows(input, mixed(Rwkv6::kV), tokens, arrays.v));
  WEIR_RETURN_IF_ERROR(
      weights_.g.OfRows(input, mixed(Rwkv6::kG), tokens, arrays.g));
  return weights_.decay.OfRows(
      input, mixed(Rwkv6::kW), arrays.low_rank, arrays.w);
}

cudaError_t Rwkv6Part::Recur(const DeviceInput& input,
                             const Arrays& arrays) const {
  const DeviceBatch& batch = *input.batch;
  const cudaError_t status =
      Rwkv6DecayRows(arrays.w, batch.tokens * keys(), input.stream);
  if (status != cudaSuccess) return status;
  const RecurrenceArgs step = {.decay = DecayKind::kKey,
                               .read = ReadOrder::kBeforeWrite,
                               .rows = batch.rows,
                               .heads = shape_.heads,
                               .key_heads = shape_.heads,
                               .key_dim = shape_.key_dim,
                               .value_dim = shape_.value_dim,
                               .row_starts = batch.row_starts,
                               .slots = batch.slots,
                               .q = {arrays.r, keys()},
                               .k = {arrays.k, keys()},
                               .v = {arrays.v, values()},
                               .log2_decay = {arrays.w, keys()},
                               .bonus = weights_.bonus.as<float>(),
                               .out = arrays.o,
                               .out_stride = values(),
                               .state_stride = input.pool->stride(input.state)};
  return RecurrenceDecode({.step = step,
                           .number = input.state_number,
                           .state = input.pool->base(input.state),
                           .consumed = batch.consumed,
                           .rounding_seed = static_cast<uint32_t>(input.state)},
                          input.stream);
}

cudaError_t Rwkv6Part::Finish(const DeviceInput& input,
                              const Arrays& arrays) const {
  return FinishRows({.tokens = input.batch->tokens,
                     .norm = {.groups = shape_.heads,
                              .width = shape_.value_dim,
                              .x = {arrays.o, values()},
                              .z = {arrays.g, values()},
                              .weight = weights_.norm.as<float>(),
                              .bias = weights_.norm_bias.as<float>(),
                              .eps = shape_.eps,
                              .centered = true,
                              .gate = GateKind::kSilu,
                              .order = GateOrder::kAfterNorm},
                     .number = number_,
                     .out = arrays.gated},
                    input.stream);
}

// The matrix of one mix.
absl::StatusOr<DeviceLinear> TakeMixUp(const Rwkv6& from,
                                       int64_t mix,
                                       DeviceWeights& weights) {
  const Rwkv6Shape& of = from.shape();
  Linear up(of.mix_rank, of.hidden, /*has_bias=*/false);
  const WeightSlot slot = up.Rows("", 0, of.hidden);
  WEIR_RETURN_IF_ERROR(slot.buffer->Allocate());
  const int64_t numbers = int64_t{of.hidden} * of.mix_rank;
  std::copy_n(
      from.mix_up().data() + mix * numbers, numbers, slot.buffer->data());
  return DeviceLinear::Take(up, "the mixes' rank", weights);
}

absl::Status TakeProjections(const Rwkv6& from,
                             DeviceWeights& weights,
                             Rwkv6Part::Weights& to) {
  constexpr char kHidden[] = "the hidden size";
  WEIR_ASSIGN_OR_RETURN(
      to.r, DeviceLinear::Take(from.r_projection(), kHidden, weights));
  WEIR_ASSIGN_OR_RETURN(
      to.k, DeviceLinear::Take(from.k_projection(), kHidden, weights));
  WEIR_ASSIGN_OR_RETURN(
      to.v, DeviceLinear::Take(from.v_projection(), kHidden, weights));
  WEIR_ASSIGN_OR_RETURN(
      to.g, DeviceLinear::Take(from.g_projection(), kHidden, weights));
  WEIR_ASSIGN_OR_RETURN(
      to.out,
      DeviceLinear::Take(from.out_projection(), "the heads' width", weights));
  WEIR_ASSIGN_OR_RETURN(
      to.decay, DeviceLowRank::Take(from.decay(), "the decay's rank", weights));
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<std::unique_ptr<DevicePart>> MakeRwkv6Part(
    const Rwkv6& from, DeviceWeights& weights) {
  if (from.shape().key_dim > kDecodeKeyDimMax) {
    return absl::UnimplementedError(
        absl::StrCat("on a GPU the key channels of a head, ",
                     from.shape().key_dim,
                     ", may be at most ",
                     kDecodeKeyDimMax));
  }
  Rwkv6Part::Weights taken;
  WEIR_ASSIGN_OR_RETURN(taken.shift, DeviceShift::Take(from.shift(), weights));
  WEIR_ASSIGN_OR_RETURN(
      taken.mix_down,
      DeviceLinear::Take(from.mix_down(), "the hidden size", weights));
  for (size_t mix = 0; mix < taken.mix_up.size(); ++mix) {
    WEIR_ASSIGN_OR_RETURN(taken.mix_up[mix],
                          TakeMixUp(from, static_cast<int64_t>(mix), weights));
  }
  WEIR_RETURN_IF_ERROR(TakeProjections(from, weights, taken));
  WEIR_ASSIGN_OR_RETURN(taken.bonus, weights.Floats(from.bonus()));
  WEIR_ASSIGN_OR_RETURN(taken.norm, weights.Floats(from.norm()));
  WEIR_ASSIGN_OR_RETURN(taken.norm_bias, weights.Floats(from.norm_bias()));
  return std::make_unique<Rwkv6Part>(
      from.shape(), weights.number(), std::move(taken));
}

}  // namespace weir::engine
