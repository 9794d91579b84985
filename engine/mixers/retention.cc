// SPDX-License-Identifier: Apache-2.0
#include "engine/mixers/retention.h"

#include <cmath>
#include <cstddef>
#include <memory>
#include <utility>

#include "engine/mixers/fla_decoder.h"
#include "engine/mixers/parallel.h"

namespace weir::engine {
namespace {

constexpr double kTheta = 10'000;
// A position is held as two floats, of 24 bits each, which fp32 counts exactly.
constexpr uint64_t kPositionLow = uint64_t{1} << 24;

uint64_t ReadPosition(const float* held) {
  return static_cast<uint64_t>(held[0]) * kPositionLow +
         static_cast<uint64_t>(held[1]);
}

void WritePosition(uint64_t position, float* held) {
  const uint64_t high = position / kPositionLow;
  held[0] = static_cast<float>(high);
  held[1] = static_cast<float>(position % kPositionLow);
}

}  // namespace

Retention::Retention(const RetentionShape& shape)
    : shape_(shape),
      qkv_(shape.qkv,
           shape.gate ? int64_t{shape.qkv.heads} * shape.qkv.value_dim : 0),
      output_(shape.qkv,
              shape.eps,
              shape.gate ? GateKind::kSilu : GateKind::kNone,
              shape.gate && shape.fused_norm ? "g_norm_swish_gate.weight"
                                             : "g_norm.weight") {
  for (int32_t h = 0; h < shape.qkv.heads; ++h) {
    log2_decay_.push_back(
        static_cast<float>(std::log1p(-std::exp2(-5.0 - h)) / std::log(2.0)));
  }
  for (int32_t i = 0; i < shape.qkv.key_dim / 2; ++i) {
    angle_per_token_.push_back(std::pow(kTheta, -2.0 * i / shape.qkv.key_dim));
  }
}

std::vector<WeightSlot> Retention::Weights() {
  std::vector<WeightSlot> slots = qkv_.Weights();
  if (shape_.gate) slots.push_back(qkv_.Extra("g_proj.weight", 0, values()));
  for (WeightSlot& slot : output_.Weights()) slots.push_back(std::move(slot));
  return slots;
}

std::vector<StateTensor> Retention::State() const {
  const QkvShape& qkv = shape_.qkv;
  std::vector<StateTensor> tensors = {
      {.name = "recurrent", .shape = {qkv.heads, qkv.value_dim, qkv.key_dim}},
      {.name = "position", .shape = {2}}};
  for (StateTensor& tensor : qkv_.State()) tensors.push_back(std::move(tensor));
  return tensors;
}

int64_t Retention::workspace_floats() const {
  return qkv_.workspace_floats() + values();
}

void Retention::TurnToken(uint64_t position, float* q, float* k) const {
  const int32_t half = shape_.qkv.key_dim / 2;
  for (int32_t i = 0; i < half; ++i) {
    // In fp64: at position 10^6 an angle in fp32 has three digits left.
    const double angle = static_cast<double>(position) *
                         angle_per_token_[static_cast<size_t>(i)];
    const auto c = static_cast<float>(std::cos(angle));
    const auto s = static_cast<float>(std::sin(angle));
    for (float* x : {q, k}) {
      for (int32_t h = 0; h < shape_.qkv.key_heads; ++h) {
        float* low = x + int64_t{h} * shape_.qkv.key_dim + i;
        float* high = low + half;
        const float before = *low;
        *low = before * c - *high * s;
        *high = *high * c + before * s;
      }
    }
  }
}

void Retention::Turn(const MixerInput& input,
                     const QkvProjection::Result& qkv) const {
  const Batch& batch = *input.batch;
  const size_t tensor = input.state.first + 1;
  for (int32_t row = 0; row < batch.rows; ++row) {
    if (batch.slots[row] < 0) continue;
    const int32_t first = batch.row_starts[row];
    const int32_t count = batch.row_starts[row + 1] - first;
    float* held = input.state.pool->base(tensor) +
                  batch.slots[row] * input.state.pool->stride(tensor);
    const uint64_t position = ReadPosition(held);
    ParallelFor(count, 16 * qkv_.keys(), [&](int64_t begin, int64_t end) {
      for (int64_t t = begin; t < end; ++t) {
        TurnToken(position + static_cast<uint64_t>(t),
                  qkv.q + (first + t) * qkv.stride,
                  qkv.k + (first + t) * qkv.stride);
      }
    });
    WritePosition(position + static_cast<uint64_t>(count), held);
  }
}

void Retention::Forward(const MixerInput& input,
                        float* workspace,
                        float* out) const {
  const Batch& batch = *input.batch;
  const int64_t tokens = batch.tokens;
  float* mixed_out = workspace + tokens * qkv_.workspace_floats();

  const QkvProjection::Result qkv =
      qkv_.Forward(input, input.state.first + 2, workspace);
  qkv_.ScaleQueries(qkv, tokens);
  Turn(input, qkv);
  RecurrenceArgs recurrence = qkv_.Recurrence(input, qkv, mixed_out);
  recurrence.log2_decay = {log2_decay_.data(), 0};
  RunRecurrence(batch, recurrence);
  output_.Forward({mixed_out, values()}, qkv.extra, tokens, mixed_out, out);
}

void ReadRetention(ConfigFields& fields, DecoderSpec& spec) {
  ReadFlaSizes(fields, spec);
  RetentionShape shape;
  shape.eps = spec.norm.eps;
  QkvShape& qkv = shape.qkv;
  qkv.hidden = spec.hidden;
  ReadHeads(fields, qkv);
  qkv.key_dim = HeadDim(fields, "expand_k", 1.0, spec.hidden, qkv.heads);
  if (qkv.key_dim % 2 != 0) {
    fields.Fail("expand_k",
                "makes heads of an odd width, which cannot be turned");
  }
  qkv.value_dim = HeadDim(fields, "expand_v", 2.0, spec.hidden, qkv.heads);
  ReadConvolution(fields, false, qkv);
  shape.gate = fields.Bool("use_output_gate", true);
  shape.fused_norm = fields.Bool("fuse_norm", true);
  ReadKeyMap(fields, qkv);
  fields.OneOf("attn_mode",
               {"chunk", "fused_chunk", "parallel", "fused_recurrent"},
               "chunk");
  ReadFlaLayers(fields, spec, [shape](int32_t) {
    return std::make_unique<Retention>(shape);
  });
}

}  // namespace weir::engine
