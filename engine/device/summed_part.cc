// SPDX-License-Identifier: Apache-2.0
#include "engine/device/summed_part.h"

#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "base/status_macros.h"
#include "engine/kernels/cuda/decode.h"

namespace weir::engine {
namespace {

class SummedPart final : public DevicePart {
 public:
  struct Weights {
    MixerFront front;
    KeyFeatures features;
    DeviceMemory no_decay;  // [heads]
    DeviceMemory norm;
    DeviceLinear out;
  };

  SummedPart(const SummedSource& from, StateNumber number, Weights weights)
      : heads_(from.front.key_heads),
        value_dim_(from.value_dim),
        v_(from.front.v),
        has_sums_(from.has_sums),
        key_eps_(from.key_eps),
        dot_eps_(from.dot_eps),
        norm_eps_(from.norm_eps),
        number_(number),
        weights_(std::move(weights)) {}

  std::vector<DeviceTensor> State(StateNumber number) const override;
  int64_t workspace_bytes(int64_t tokens) const override {
    return Place(nullptr, tokens).bytes;
  }
  absl::Status Forward(const DeviceInput& input) const override;

 private:
  struct Arrays {
    MixerFront::Arrays front;
    KeyFeatures::Arrays features;
    float* dots = nullptr;   // [tokens, heads]
    float* o = nullptr;      // [tokens, heads, V]
    void* normed = nullptr;  // likewise, of the products' number
    int64_t bytes = 0;
  };
  // Where the pool has the part's tensors; of bf16 there is no rest.
  struct Tensors {
    size_t state;
    size_t rest;
    size_t keys;
    size_t maximum;
    size_t values;
    size_t counts;
  };

  bool is_favor() const { return weights_.features.is_favor(); }
  int64_t values() const { return int64_t{heads_} * value_dim_; }
  int32_t features() const { return weights_.features.shape().features; }
  Arrays Place(void* base, int64_t tokens) const;
  static Tensors TensorsOf(const DeviceInput& input);
  KeySums SumsOf(const DeviceInput& input, const Arrays& arrays) const;
  cudaError_t Recur(const DeviceInput& input, const Arrays& arrays) const;
  cudaError_t Finish(const DeviceInput& input, const Arrays& arrays) const;

  const int32_t heads_;
  const int32_t value_dim_;
  const int64_t v_;
  const bool has_sums_;
  const float key_eps_;
  const float dot_eps_;
  const float norm_eps_;
  const StateNumber number_;
  const Weights weights_;
};

std::vector<DeviceTensor> SummedPart::State(StateNumber number) const {
  constexpr StateNumber kFloat = StateNumber::kFloat32;
  const std::vector<int64_t> shape = {heads_, value_dim_, features()};
  std::vector<DeviceTensor> tensors = {{"recurrent", shape, number}};
  if (number == kFloat) tensors.push_back({"rest", shape, kFloat});
  if (has_sums_) tensors.push_back({"sum", {heads_, 2, features()}, kFloat});
  if (!is_favor()) return tensors;
  for (DeviceTensor& tensor : weights_.features.State()) {
    tensors.push_back(std::move(tensor));
  }
  tensors.push_back({"values", {heads_, 2, value_dim_}, kFloat});
  tensors.push_back({"counts", {heads_, 2}, kFloat});
  return tensors;
}

SummedPart::Tensors SummedPart::TensorsOf(const DeviceInput& input) {
  const size_t rest = input.state_number == StateNumber::kFloat32 ? 1 : 0;
  const size_t state = input.state;
  return {.state = state,
          .rest = state + 1,
          .keys = state + rest + 1,
          .maximum = state + rest + 2,
          .values = state + rest + 3,
          .counts = state + rest + 4};
}

SummedPart::Arrays SummedPart::Place(void* base, int64_t tokens) const {
  const int64_t rows = PaddedTokens(tokens);
  Workspace workspace(base);
  const auto take = [&](int64_t floats) {
    return static_cast<float*>(
        workspace.Take(rows * floats * static_cast<int64_t>(sizeof(float))));
  };
  Arrays arrays;
  arrays.front = weights_.front.Place(workspace, rows);
  arrays.features = weights_.features.Place(workspace, rows);
  arrays.dots = take(heads_);
  arrays.o = take(values());
  arrays.normed = workspace.Take(rows * values() * NumberBytes(number_));
  arrays.bytes = workspace.bytes();
  return arrays;
}

absl::Status SummedPart::Forward(const DeviceInput& input) const {
  const Arrays arrays = Place(input.workspace, input.batch->tokens);
  const MixerFront& front = weights_.front;
  // Without a convolution there is no window.
  WEIR_RETURN_IF_ERROR(front.Forward(input, arrays.front, input.state));
  WEIR_RETURN_IF_ERROR(weights_.features.Forward(
      input, front, arrays.front, arrays.features, TensorsOf(input).maximum));
  WEIR_RETURN_IF_ERROR(
      CudaStatus(Recur(input, arrays), "a mixer's recurrence"));
  WEIR_RETURN_IF_ERROR(CudaStatus(Finish(input, arrays), "a mixer's norm"));
  return weights_.out.AddToResidual(input, arrays.normed);
}

KeySums SummedPart::SumsOf(const DeviceInput& input,
                           const Arrays& arrays) const {
  if (!has_sums_) return {};
  const Tensors at = TensorsOf(input);
  const auto base = [&](size_t tensor) {
    return static_cast<float*>(input.pool->base(tensor));
  };
  KeySums sums = {.keys = base(at.keys),
                  .keys_stride = input.pool->stride(at.keys),
                  .eps = key_eps_,
                  .dots = arrays.dots};
  if (!is_favor()) return sums;
  sums.floor = weights_.features.shape().eps;
  sums.query_sums = arrays.features.query_sums;
  sums.values = base(at.values);
  sums.values_stride = input.pool->stride(at.values);
  sums.counts = base(at.counts);
  sums.counts_stride = input.pool->stride(at.counts);
  return sums;
}

cudaError_t SummedPart::Recur(const DeviceInput& input,
                              const Arrays& arrays) const {
  const DeviceBatch& batch = *input.batch;
  const Tensors at = TensorsOf(input);
  const int64_t width = weights_.features.width();
  RecurrenceArgs step = {
      .rows = batch.rows,
      .heads = heads_,
      .key_heads = heads_,
      .key_dim = features(),
      .value_dim = value_dim_,
      .row_starts = batch.row_starts,
      .slots = batch.slots,
      .q = {arrays.features.q, width},
      .k = {arrays.features.k, width},
      .v = weights_.front.Mixed(arrays.front, v_),
      .log2_decay = is_favor() ? TokenRows{arrays.features.log2_decay, heads_}
                               : TokenRows{weights_.no_decay.as<float>(), 0},
      .out = arrays.o,
      .out_stride = values(),
      .state_stride = input.pool->stride(at.state)};
  if (input.state_number == StateNumber::kFloat32) {
    step.rest = static_cast<float*>(input.pool->base(at.rest));
    step.rest_stride = input.pool->stride(at.rest);
  }
  return RecurrenceDecode({.step = step,
                           .sums = SumsOf(input, arrays),
                           .number = input.state_number,
                           .state = input.pool->base(at.state),
                           .consumed = batch.consumed,
                           .rounding_seed = static_cast<uint32_t>(at.state)},
                          input.stream);
}

cudaError_t SummedPart::Finish(const DeviceInput& input,
                               const Arrays& arrays) const {
  FinishRowsArgs args = {.tokens = input.batch->tokens,
                         .has_norm = weights_.norm.data() != nullptr,
                         .norm = {.groups = heads_,
                                  .width = value_dim_,
                                  .x = {arrays.o, values()},
                                  .z = {},
                                  .weight = weights_.norm.as<float>(),
                                  .shared_weight = true,
                                  .eps = norm_eps_,
                                  .gate = GateKind::kNone},
                         .number = number_,
                         .out = arrays.normed};
  if (has_sums_) {
    args.sums = {arrays.dots, heads_};
    args.sums_eps = dot_eps_;
  }
  return FinishRows(args, input.stream);
}

}  // namespace

absl::StatusOr<std::unique_ptr<DevicePart>> MakeSummedPart(
    const SummedSource& from, DeviceWeights& weights) {
  if (from.features.features > kDecodeKeyDimMax) {
    return absl::UnimplementedError(
        absl::StrCat("on a GPU the features of a head, ",
                     from.features.features,
                     ", may be at most ",
                     kDecodeKeyDimMax));
  }
  SummedPart::Weights taken;
  WEIR_ASSIGN_OR_RETURN(
      taken.front,
      MixerFront::Take(
          from.front, *from.projection, nullptr, nullptr, weights));
  WEIR_ASSIGN_OR_RETURN(
      taken.features,
      KeyFeatures::Take(
          from.features, from.front, from.features_from, weights));
  const std::vector<float> no_decay(static_cast<size_t>(from.front.key_heads),
                                    0.0F);
  WEIR_ASSIGN_OR_RETURN(taken.no_decay, weights.Floats(no_decay));
  if (from.norm != nullptr) {
    WEIR_ASSIGN_OR_RETURN(taken.norm, weights.Floats(*from.norm));
  }
  WEIR_ASSIGN_OR_RETURN(
      taken.out, DeviceLinear::Take(*from.out, "the heads' width", weights));
  return std::make_unique<SummedPart>(from, weights.number(), std::move(taken));
}

}  // namespace weir::engine
