// SPDX-License-Identifier: Apache-2.0
#include "engine/device/rwkv4_part.h"

#include <utility>
#include <vector>

#include "base/status_macros.h"
#include "engine/device/device_linear.h"
#include "engine/device/device_shift.h"
#include "engine/kernels/cuda/wkv.h"

namespace weir::engine {
namespace {

// Of the part's tensors in the pool.
enum StateIndex { kSums, kExponent, kShift };

class Rwkv4Part final : public DevicePart {
 public:
  struct Weights {
    DeviceShift shift;
    DeviceLinear key;
    DeviceLinear value;
    DeviceLinear receptance;
    DeviceLinear out;
    DeviceMemory rate;
    DeviceMemory bonus;
  };

  Rwkv4Part(int32_t channels, StateNumber number, Weights weights)
      : channels_(channels), number_(number), weights_(std::move(weights)) {}

  std::vector<DeviceTensor> State(StateNumber number) const override {
    static_cast<void>(number);
    return {{"sums", {kWkvSums, channels_}, StateNumber::kFloat32},
            {"exponent", {channels_}, StateNumber::kFloat32},
            weights_.shift.State("shift")};
  }
  int64_t workspace_bytes(int64_t tokens) const override {
    return Place(nullptr, tokens).bytes;
  }

  absl::Status Forward(const DeviceInput& input) const override {
    const Arrays arrays = Place(input.workspace, input.batch->tokens);
    const int64_t tokens = input.batch->tokens;
    const DeviceShift& shift = weights_.shift;
    const auto mixed = [&](Rwkv4::Mix mix) {
      return shift.Mixed(arrays.shift, mix);
    };
    WEIR_RETURN_IF_ERROR(
        shift.Forward(input, arrays.shift, input.state + kShift));
    WEIR_RETURN_IF_ERROR(
        weights_.key.OfRows(input, mixed(Rwkv4::kKey), tokens, arrays.k));
    WEIR_RETURN_IF_ERROR(
        weights_.value.OfRows(input, mixed(Rwkv4::kValue), tokens, arrays.v));
    WEIR_RETURN_IF_ERROR(weights_.receptance.OfRows(
        input, mixed(Rwkv4::kReceptance), tokens, arrays.r));
    WEIR_RETURN_IF_ERROR(
        CudaStatus(Recur(input, arrays), "a mixer's recurrence"));
    return weights_.out.AddToResidual(input, arrays.gated);
  }

 private:
  // [tokens, channels] each.
  struct Arrays {
    DeviceShift::Arrays shift;
    float* k = nullptr;
    float* v = nullptr;
    float* r = nullptr;
    void* gated = nullptr;  // of the products' number
    int64_t bytes = 0;
  };

  Arrays Place(void* base, int64_t tokens) const {
    const int64_t rows = PaddedTokens(tokens);
    Workspace workspace(base);
    Arrays arrays;
    arrays.shift = weights_.shift.Place(workspace, rows);
    for (float** part : {&arrays.k, &arrays.v, &arrays.r}) {
      *part = static_cast<float*>(workspace.Take(
          rows * channels_ * static_cast<int64_t>(sizeof(float))));
    }
    arrays.gated = workspace.Take(rows * channels_ * NumberBytes(number_));
    arrays.bytes = workspace.bytes();
    return arrays;
  }

  cudaError_t Recur(const DeviceInput& input, const Arrays& arrays) const {
    const DeviceBatch& batch = *input.batch;
    const DevicePool& pool = *input.pool;
    const size_t sums = input.state + kSums;
    const size_t exponent = input.state + kExponent;
    return WkvRows(
        {.wkv = {.rows = batch.rows,
                 .channels = channels_,
                 .row_starts = batch.row_starts,
                 .slots = batch.slots,
                 .k = {arrays.k, channels_},
                 .v = {arrays.v, channels_},
                 .rate = weights_.rate.as<float>(),
                 .bonus = weights_.bonus.as<float>(),
                 .sums = static_cast<float*>(pool.base(sums)),
                 .sums_stride = pool.stride(sums),
                 .exponent = static_cast<float*>(pool.base(exponent)),
                 .exponent_stride = pool.stride(exponent)},
         .consumed = batch.consumed,
         .r = {arrays.r, channels_},
         .number = number_,
         .out = arrays.gated},
        input.stream);
  }

  const int32_t channels_;
  const StateNumber number_;
  const Weights weights_;
};

}  // namespace

absl::StatusOr<std::unique_ptr<DevicePart>> MakeRwkv4Part(
    const Rwkv4& from, DeviceWeights& weights) {
  constexpr char kHidden[] = "the hidden size";
  Rwkv4Part::Weights taken;
  WEIR_ASSIGN_OR_RETURN(taken.shift, DeviceShift::Take(from.shift(), weights));
  WEIR_ASSIGN_OR_RETURN(taken.key,
                        DeviceLinear::Take(from.key(), kHidden, weights));
  WEIR_ASSIGN_OR_RETURN(taken.value,
                        DeviceLinear::Take(from.value(), kHidden, weights));
  WEIR_ASSIGN_OR_RETURN(
      taken.receptance,
      DeviceLinear::Take(from.receptance(), kHidden, weights));
  WEIR_ASSIGN_OR_RETURN(
      taken.out,
      DeviceLinear::Take(from.output(), "the attention hidden size", weights));
  WEIR_ASSIGN_OR_RETURN(taken.rate, weights.Floats(from.rate()));
  WEIR_ASSIGN_OR_RETURN(taken.bonus, weights.Floats(from.bonus()));
  return std::make_unique<Rwkv4Part>(
      from.channels(), weights.number(), std::move(taken));
}

}  // namespace weir::engine
