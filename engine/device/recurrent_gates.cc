// SPDX-License-Identifier: Apache-2.0
#include "engine/device/recurrent_gates.h"

#include "base/status_macros.h"
#include "engine/kernels/cuda/mixer_gates.h"

namespace weir::engine {

absl::StatusOr<RecurrentGates> RecurrentGates::Take(const GateShape& shape,
                                                    const FrontShape& front,
                                                    const GateSource& from,
                                                    DeviceWeights& weights) {
  RecurrentGates gates;
  gates.shape_ = shape;
  gates.front_ = front;
  if (from.decay_up != nullptr) {
    WEIR_ASSIGN_OR_RETURN(
        gates.decay_up_,
        DeviceLinear::Take(*from.decay_up, "the decay's rank", weights));
  }
  WEIR_ASSIGN_OR_RETURN(gates.a_log_, weights.Floats(from.a_log));
  WEIR_ASSIGN_OR_RETURN(gates.dt_bias_, weights.Floats(from.dt_bias));
  WEIR_ASSIGN_OR_RETURN(gates.decay_bias_, weights.Floats(from.decay_bias));
  WEIR_ASSIGN_OR_RETURN(gates.low_, weights.Floats(from.low));
  WEIR_ASSIGN_OR_RETURN(gates.log2_decay_, weights.Floats(from.log2_decay));
  WEIR_ASSIGN_OR_RETURN(gates.beta_, weights.Floats(from.beta));
  return gates;
}

bool RecurrentGates::by_key() const {
  switch (shape_.rule) {
    case GateRule::kKeySigmoid:
    case GateRule::kKda:
    case GateRule::kGdn2:
    case GateRule::kHgrn:
      return true;
    case GateRule::kFixed:
    case GateRule::kBeta:
    case GateRule::kDelta:
    case GateRule::kHeadSigmoid:
    case GateRule::kTimeStep:
      break;
  }
  return false;
}

bool RecurrentGates::has_keys() const { return shape_.rule == GateRule::kHgrn; }

bool RecurrentGates::has_values() const {
  return shape_.rule == GateRule::kGdn2 || shape_.rule == GateRule::kTimeStep;
}

// GDN-2 reads the state by other keys than it writes.
bool RecurrentGates::fits_chunks() const {
  return shape_.rule != GateRule::kGdn2;
}

RecurrentGates::Arrays RecurrentGates::Place(Workspace& workspace,
                                             int64_t padded_tokens) const {
  const auto take = [&](int64_t floats) {
    return static_cast<float*>(workspace.Take(
        padded_tokens * floats * static_cast<int64_t>(sizeof(float))));
  };
  Arrays arrays;
  arrays.narrow = take(decay_up_.inputs());
  arrays.f = take(decay_up_.outputs());
  arrays.log2_decay = take(by_key() ? keys() : shape_.heads);
  arrays.beta = take(int64_t{front_.writes} * shape_.heads);
  if (by_key()) {
    arrays.a = take(keys());
    arrays.keys = take(keys());
  }
  if (has_values()) arrays.values = take(values());
  return arrays;
}

absl::Status RecurrentGates::Forward(const DeviceInput& input,
                                     const MixerFront& front,
                                     const MixerFront::Arrays& mixed,
                                     const Arrays& arrays) const {
  if (decay_up_.outputs() > 0) {
    WEIR_RETURN_IF_ERROR(
        decay_up_.OfFloats(input,
                           front.Column(mixed, shape_.decay_column),
                           Activation::kNone,
                           arrays.narrow,
                           arrays.f));
  }
  return CudaStatus(by_key() ? KeyGates(input, front, mixed, arrays)
                             : HeadGates(input, front, mixed, arrays),
                    "a mixer's gates");
}

cudaError_t RecurrentGates::HeadGates(const DeviceInput& input,
                                      const MixerFront& front,
                                      const MixerFront::Arrays& mixed,
                                      const Arrays& arrays) const {
  const int64_t tokens = input.batch->tokens;
  const int32_t heads = shape_.heads;
  const TokenRows a = front.Column(mixed, shape_.a_column);
  if (shape_.rule == GateRule::kFixed) return cudaSuccess;
  if (shape_.rule == GateRule::kTimeStep) {
    return TimeStepRows({.heads = heads,
                         .head_dim = shape_.value_dim,
                         .dt = a,
                         .x = front.Mixed(mixed, front_.v),
                         .a_log = a_log_.as<float>(),
                         .dt_bias = dt_bias_.as<float>(),
                         .dt_min = shape_.dt_min,
                         .dt_max = shape_.dt_max,
                         .log2_decay = arrays.log2_decay,
                         .v = arrays.values},
                        tokens,
                        input.stream);
  }
  if (shape_.rule == GateRule::kHeadSigmoid) {
    return LogSigmoidRows({.width = heads,
                           .x = a,
                           .scale = shape_.decay_scale,
                           .low = shape_.low,
                           .log2_decay = arrays.log2_decay},
                          decay_bias_.as<float>(),
                          tokens,
                          input.stream);
  }
  if (shape_.rule == GateRule::kDelta) {
    const cudaError_t status = DeltaGateRows({.heads = heads,
                                              .a = a,
                                              .b = {},
                                              .a_log = a_log_.as<float>(),
                                              .dt_bias = dt_bias_.as<float>(),
                                              .log2_decay = arrays.log2_decay},
                                             tokens,
                                             input.stream);
    if (status != cudaSuccess) return status;
  }
  return DeltaGateRows({.heads = front_.writes * heads,
                        .a = {},
                        .b = front.Column(mixed, shape_.b_column),
                        .beta_scale = shape_.beta_scale,
                        .beta = arrays.beta},
                       tokens,
                       input.stream);
}

cudaError_t RecurrentGates::KeyGates(const DeviceInput& input,
                                     const MixerFront& front,
                                     const MixerFront::Arrays& mixed,
                                     const Arrays& arrays) const {
  const int64_t tokens = input.batch->tokens;
  const auto width = static_cast<int32_t>(keys());
  if (shape_.rule == GateRule::kKeySigmoid) {
    return LogSigmoidRows({.width = width,
                           .x = {arrays.f, width},
                           .scale = shape_.decay_scale,
                           .low = shape_.low,
                           .log2_decay = arrays.log2_decay},
                          nullptr,
                          tokens,
                          input.stream);
  }
  if (shape_.rule == GateRule::kHgrn) {
    return HgrnGateRows({.width = width,
                         .f = front.Column(mixed, shape_.a_column),
                         .low = low_.as<float>(),
                         .log2_decay = arrays.log2_decay,
                         .k = arrays.keys},
                        tokens,
                        input.stream);
  }
  return Corrections(input, front, mixed, arrays);
}

// Decays with a correction along the key.
cudaError_t RecurrentGates::Corrections(const DeviceInput& input,
                                        const MixerFront& front,
                                        const MixerFront::Arrays& mixed,
                                        const Arrays& arrays) const {
  const int64_t tokens = input.batch->tokens;
  const TokenRows b = front.Column(mixed, shape_.b_column);
  const TokenRows k = front.Mixed(mixed, front_.k);
  const TokenRows f = {arrays.f, decay_up_.outputs()};
  if (shape_.rule == GateRule::kKda) {
    return KdaGateRows({.heads = shape_.heads,
                        .key_heads = front_.key_heads,
                        .key_dim = front_.key_dim,
                        .f = f,
                        .b = b,
                        .k = k,
                        .a_log = a_log_.as<float>(),
                        .dt_bias = dt_bias_.as<float>(),
                        .bound = shape_.bound,
                        .beta_scale = shape_.beta_scale,
                        .log2_decay = arrays.log2_decay,
                        .a = arrays.a,
                        .beta = arrays.beta},
                       tokens,
                       input.stream);
  }
  const cudaError_t status = Gdn2GateRows({.heads = shape_.heads,
                                           .key_heads = front_.key_heads,
                                           .key_dim = front_.key_dim,
                                           .f = f,
                                           .b = b,
                                           .k = k,
                                           .a_log = a_log_.as<float>(),
                                           .dt_bias = dt_bias_.as<float>(),
                                           .erase_scale = shape_.beta_scale,
                                           .log2_decay = arrays.log2_decay,
                                           .a = arrays.a},
                                          tokens,
                                          input.stream);
  if (status != cudaSuccess) return status;
  return SigmoidMultiplyRows(front.Column(mixed, shape_.w_column),
                             front.Mixed(mixed, front_.v),
                             static_cast<int32_t>(values()),
                             arrays.values,
                             tokens,
                             input.stream);
}

void RecurrentGates::FillIn(const Arrays& arrays, RecurrenceArgs& step) const {
  step.log2_decay = {arrays.log2_decay, by_key() ? keys() : shape_.heads};
  if (log2_decay_.data() != nullptr) {
    step.log2_decay = {log2_decay_.as<float>(), 0};
  }
  if (by_key()) step.decay = DecayKind::kKey;
  if (has_values()) step.v = {arrays.values, values()};
  switch (shape_.rule) {
    case GateRule::kFixed:
      if (beta_.data() != nullptr) step.beta = {beta_.as<float>(), 0};
      break;
    case GateRule::kBeta:
    case GateRule::kDelta:
      step.beta = {arrays.beta, shape_.heads};
      break;
    case GateRule::kKda:
      step.beta = {arrays.beta, shape_.heads};
      step.a = {arrays.a, keys()};
      break;
    case GateRule::kGdn2:
      step.a = {arrays.a, keys()};
      break;
    case GateRule::kHgrn:
      step.k = {arrays.keys, keys()};
      break;
    case GateRule::kHeadSigmoid:
    case GateRule::kKeySigmoid:
    case GateRule::kTimeStep:
      break;
  }
}

}  // namespace weir::engine
