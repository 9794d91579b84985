// SPDX-License-Identifier: Apache-2.0
#include "engine/device/rwkv7_part.h"

#include <algorithm>
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

class Rwkv7Part final : public DevicePart {
 public:
  struct Weights {
    DeviceShift shift;
    DeviceLinear r;
    DeviceLinear k;
    DeviceLinear v;
    DeviceLinear out;
    DeviceLowRank decay;
    DeviceLowRank rate;
    DeviceLowRank value_mix;  // not in the first layer
    DeviceLowRank gate;
    DeviceMemory k_k;
    DeviceMemory k_a;
    DeviceMemory r_k;
    DeviceMemory norm;
    DeviceMemory norm_bias;
  };

  Rwkv7Part(const Rwkv7Shape& shape, StateNumber number, Weights weights)
      : shape_(shape), number_(number), weights_(std::move(weights)) {}

  std::vector<DeviceTensor> State(StateNumber number) const override {
    return {
        {"recurrent", {shape_.heads, shape_.value_dim, shape_.key_dim}, number},
        weights_.shift.State("shift")};
  }
  int64_t workspace_bytes(int64_t tokens) const override {
    return Place(nullptr, tokens).bytes;
  }
  int64_t shared_floats() const override { return values(); }

  absl::Status Forward(const DeviceInput& input) const override {
    const Arrays arrays = Place(input.workspace, input.batch->tokens);
    WEIR_RETURN_IF_ERROR(
        weights_.shift.Forward(input, arrays.shift, input.state + 1));
    WEIR_RETURN_IF_ERROR(Project(input, arrays));
    WEIR_RETURN_IF_ERROR(MakeValues(input, arrays));
    WEIR_RETURN_IF_ERROR(
        CudaStatus(Recur(input, arrays), "a mixer's recurrence"));
    WEIR_RETURN_IF_ERROR(CudaStatus(Finish(input, arrays), "a mixer's norm"));
    return weights_.out.AddToResidual(input, arrays.gated);
  }

 private:
  // [tokens, ...] each.
  struct Arrays {
    DeviceShift::Arrays shift;
    DeviceLowRank::Arrays low_rank;
    float* r = nullptr;     // keys
    float* w = nullptr;     // keys; then log2 of the decay
    float* k = nullptr;     // keys
    float* rate = nullptr;  // keys; then b
    float* a = nullptr;     // keys
    float* v = nullptr;     // values; not in the first layer
    float* g = nullptr;     // values
    float* o = nullptr;     // values; before, how much of the first v is taken
    void* gated = nullptr;  // values, of the products' number
    int64_t bytes = 0;
  };

  int64_t keys() const { return int64_t{shape_.heads} * shape_.key_dim; }
  int64_t values() const { return int64_t{shape_.heads} * shape_.value_dim; }
  // The first layer makes them where the others read them.
  float* ValuesOf(const DeviceInput& input, const Arrays& arrays) const {
    return shape_.first ? input.shared : arrays.v;
  }
  Arrays Place(void* base, int64_t tokens) const;
  absl::Status Project(const DeviceInput& input, const Arrays& arrays) const;
  absl::Status MakeValues(const DeviceInput& input, const Arrays& arrays) const;
  cudaError_t Recur(const DeviceInput& input, const Arrays& arrays) const;
  cudaError_t Finish(const DeviceInput& input, const Arrays& arrays) const;

  const Rwkv7Shape shape_;
  const StateNumber number_;
  const Weights weights_;
};

Rwkv7Part::Arrays Rwkv7Part::Place(void* base, int64_t tokens) const {
  const int64_t rows = PaddedTokens(tokens);
  Workspace workspace(base);
  const auto take = [&](int64_t floats) {
    return static_cast<float*>(
        workspace.Take(rows * floats * static_cast<int64_t>(sizeof(float))));
  };
  const auto take_rounded = [&](int64_t numbers) {
    return workspace.Take(rows * numbers * NumberBytes(number_));
  };
  const int32_t rank = std::max({weights_.decay.rank(),
                                 weights_.rate.rank(),
                                 weights_.value_mix.rank(),
                                 weights_.gate.rank()});
  Arrays arrays;
  arrays.shift = weights_.shift.Place(workspace, rows);
  arrays.low_rank = {.middle = take(rank), .rounded = take_rounded(rank)};
  for (float** part :
       {&arrays.r, &arrays.w, &arrays.k, &arrays.rate, &arrays.a}) {
    *part = take(keys());
  }
  if (!shape_.first) arrays.v = take(values());
  arrays.g = take(values());
  arrays.o = take(values());
  arrays.gated = take_rounded(values());
  arrays.bytes = workspace.bytes();
  return arrays;
}

absl::Status Rwkv7Part::Project(const DeviceInput& input,
                                const Arrays& arrays) const {
  const int64_t tokens = input.batch->tokens;
  const auto mixed = [&](Rwkv7::Mix mix) {
    return weights_.shift.Mixed(arrays.shift, mix);
  };
  WEIR_RETURN_IF_ERROR(
      weights_.r.OfRows(input, mixed(Rwkv7::kR), tokens, arrays.r));
  WEIR_RETURN_IF_ERROR(
      weights_.k.OfRows(input, mixed(Rwkv7::kK), tokens, arrays.k));
  WEIR_RETURN_IF_ERROR(weights_.decay.OfRows(
      input, mixed(Rwkv7::kW), arrays.low_rank, arrays.w));
  WEIR_RETURN_IF_ERROR(weights_.rate.OfRows(
      input, mixed(Rwkv7::kA), arrays.low_rank, arrays.rate));
  return weights_.gate.OfRows(
      input, mixed(Rwkv7::kG), arrays.low_rank, arrays.g);
}

absl::Status Rwkv7Part::MakeValues(const DeviceInput& input,
                                   const Arrays& arrays) const {
  const int64_t tokens = input.batch->tokens;
  const void* mixed = weights_.shift.Mixed(arrays.shift, Rwkv7::kV);
  float* v = ValuesOf(input, arrays);
  WEIR_RETURN_IF_ERROR(weights_.v.OfRows(input, mixed, tokens, v));
  if (shape_.first) return absl::OkStatus();
  WEIR_RETURN_IF_ERROR(
      weights_.value_mix.OfRows(input, mixed, arrays.low_rank, arrays.o));
  return CudaStatus(Rwkv7ValueRows(input.shared,
                                   arrays.o,
                                   static_cast<int32_t>(values()),
                                   v,
                                   tokens,
                                   input.stream),
                    "a mixer's values");
}

cudaError_t Rwkv7Part::Recur(const DeviceInput& input,
                             const Arrays& arrays) const {
  const DeviceBatch& batch = *input.batch;
  const cudaError_t status = Rwkv7TermRows({.heads = shape_.heads,
                                            .key_dim = shape_.key_dim,
                                            .eps = shape_.length_eps,
                                            .k_k = weights_.k_k.as<float>(),
                                            .k_a = weights_.k_a.as<float>(),
                                            .w = arrays.w,
                                            .rate = arrays.rate,
                                            .k = arrays.k,
                                            .a = arrays.a},
                                           batch.tokens,
                                           input.stream);
  if (status != cudaSuccess) return status;
  const RecurrenceArgs step = {.decay = DecayKind::kKey,
                               .rows = batch.rows,
                               .heads = shape_.heads,
                               .key_heads = shape_.heads,
                               .key_dim = shape_.key_dim,
                               .value_dim = shape_.value_dim,
                               .row_starts = batch.row_starts,
                               .slots = batch.slots,
                               .q = {arrays.r, keys()},
                               .k = {arrays.k, keys()},
                               .v = {ValuesOf(input, arrays), values()},
                               .log2_decay = {arrays.w, keys()},
                               .a = {arrays.a, keys()},
                               .b = {arrays.rate, keys()},
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

// The norm in place, then the bonus and the gate.
cudaError_t Rwkv7Part::Finish(const DeviceInput& input,
                              const Arrays& arrays) const {
  const int64_t tokens = input.batch->tokens;
  const cudaError_t status =
      FinishRows({.tokens = tokens,
                  .norm = {.groups = shape_.heads,
                           .width = shape_.value_dim,
                           .x = {arrays.o, values()},
                           .z = {},
                           .weight = weights_.norm.as<float>(),
                           .bias = weights_.norm_bias.as<float>(),
                           .eps = shape_.eps,
                           .centered = true,
                           .gate = GateKind::kNone},
                  .number = StateNumber::kFloat32,
                  .out = arrays.o},
                 input.stream);
  if (status != cudaSuccess) return status;
  return Rwkv7BonusRows({.heads = shape_.heads,
                         .key_dim = shape_.key_dim,
                         .value_dim = shape_.value_dim,
                         .r_k = weights_.r_k.as<float>(),
                         .r = arrays.r,
                         .k = arrays.k,
                         .v = ValuesOf(input, arrays),
                         .g = arrays.g,
                         .y = arrays.o},
                        number_,
                        arrays.gated,
                        tokens,
                        input.stream);
}

absl::Status TakeProjections(const Rwkv7& from,
                             DeviceWeights& weights,
                             Rwkv7Part::Weights& to) {
  constexpr char kHidden[] = "the hidden size";
  WEIR_ASSIGN_OR_RETURN(to.shift, DeviceShift::Take(from.shift(), weights));
  WEIR_ASSIGN_OR_RETURN(
      to.r, DeviceLinear::Take(from.r_projection(), kHidden, weights));
  WEIR_ASSIGN_OR_RETURN(
      to.k, DeviceLinear::Take(from.k_projection(), kHidden, weights));
  WEIR_ASSIGN_OR_RETURN(
      to.v, DeviceLinear::Take(from.v_projection(), kHidden, weights));
  WEIR_ASSIGN_OR_RETURN(
      to.out,
      DeviceLinear::Take(from.out_projection(), "the heads' width", weights));
  WEIR_ASSIGN_OR_RETURN(
      to.decay, DeviceLowRank::Take(from.decay(), "the decay's rank", weights));
  WEIR_ASSIGN_OR_RETURN(
      to.rate, DeviceLowRank::Take(from.rate(), "the rate's rank", weights));
  if (!from.shape().first) {
    WEIR_ASSIGN_OR_RETURN(
        to.value_mix,
        DeviceLowRank::Take(from.value_mix(), "the values' rank", weights));
  }
  WEIR_ASSIGN_OR_RETURN(
      to.gate, DeviceLowRank::Take(from.gate(), "the gate's rank", weights));
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<std::unique_ptr<DevicePart>> MakeRwkv7Part(
    const Rwkv7& from, DeviceWeights& weights) {
  if (from.shape().key_dim > kDecodeKeyDimMax) {
    return absl::UnimplementedError(
        absl::StrCat("on a GPU the key channels of a head, ",
                     from.shape().key_dim,
                     ", may be at most ",
                     kDecodeKeyDimMax));
  }
  Rwkv7Part::Weights taken;
  WEIR_RETURN_IF_ERROR(TakeProjections(from, weights, taken));
  WEIR_ASSIGN_OR_RETURN(taken.k_k, weights.Floats(from.k_k()));
  WEIR_ASSIGN_OR_RETURN(taken.k_a, weights.Floats(from.k_a()));
  WEIR_ASSIGN_OR_RETURN(taken.r_k, weights.Floats(from.r_k()));
  WEIR_ASSIGN_OR_RETURN(taken.norm, weights.Floats(from.norm()));
  WEIR_ASSIGN_OR_RETURN(taken.norm_bias, weights.Floats(from.norm_bias()));
  return std::make_unique<Rwkv7Part>(
      from.shape(), weights.number(), std::move(taken));
}

}  // namespace weir::engine
