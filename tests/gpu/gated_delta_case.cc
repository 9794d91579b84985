// SPDX-License-Identifier: Apache-2.0
#include "tests/gpu/gated_delta_case.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <limits>
#include <random>
#include <span>

#include "tests/gpu/device_array.h"
#include "tests/gpu/device_recurrence.h"

namespace weir::gpu {
namespace {

using engine::GateKind;
using engine::StateNumber;

constexpr double kNormEps = 1e-5;
constexpr double kHeadNormEps = 1e-6;
// Which a bf16 holds exactly.
constexpr float kMark = -0x1.8p102F;

double Sigmoid(double x) { return 1 / (1 + std::exp(-x)); }

// Of length one, times scale.
void Normalize(double scale, std::span<double> x) {
  double sum = kHeadNormEps;
  for (const double y : x) sum += y * y;
  for (double& y : x) y *= scale / std::sqrt(sum);
}

std::vector<uint16_t> Bfloat16s(const std::vector<float>& x) {
  std::vector<uint16_t> bits(x.size());
  std::transform(x.begin(), x.end(), bits.begin(), ToBfloat16);
  return bits;
}

std::vector<float> Floats(const std::vector<uint16_t>& bits) {
  std::vector<float> x(bits.size());
  std::transform(bits.begin(), bits.end(), x.begin(), FromBfloat16);
  return x;
}

}  // namespace

GatedDeltaCase::GatedDeltaCase(const GatedDeltaShape& shape_in,
                               const std::vector<int32_t>& row_tokens,
                               uint32_t seed)
    : shape(shape_in), row_starts{0} {
  for (const int32_t count : row_tokens) {
    slots.push_back(static_cast<int32_t>(slots.size()));
    consumed.push_back(static_cast<uint32_t>(slots.size()) + 1);
    row_starts.push_back(row_starts.back() + count);
  }
  slot_count = static_cast<int32_t>(slots.size());
  tokens = row_starts.back();
  std::mt19937 random(seed);
  std::normal_distribution<float> normal;
  const auto fill = [&](int64_t count, float mean, float deviation) {
    std::vector<float> x(count);
    for (float& y : x) y = mean + deviation * normal(random);
    return x;
  };
  projected = fill(tokens * columns(), 0, 1);
  window = fill(slot_count * window_numbers(), 0, 1);
  if (shape.number == StateNumber::kBfloat16) {
    projected = Floats(Bfloat16s(projected));
    window = Floats(Bfloat16s(window));
  }
  conv_weight = fill(window_numbers(), 0, 0.5F);
  if (shape.bias) conv_bias = fill(mixed(), 0, 0.3F);
  a_log = fill(shape.heads, 0, 1);
  dt_bias = fill(shape.heads, -2, 1);
  norm_weight = fill(shape.value_dim, 1, 0.1F);
  state = fill(slot_count * state_numbers(), 0, 0.3F);
  out.assign(tokens * values(), kMark);
  ring.assign(slot_count * ring_numbers(),
              std::numeric_limits<float>::quiet_NaN());
  for (int64_t slot = 0; slot < slot_count; ++slot) {
    for (int64_t h = 0; h < shape.heads; ++h) {
      ring[slot * ring_numbers() + h * engine::kRingSteps + engine::kRingHeld] =
          std::bit_cast<float>(0);
    }
  }
}

int64_t GatedDeltaCase::ring_numbers() const {
  engine::GatedDeltaDecodeArgs args;
  args.heads = shape.heads;
  args.key_heads = shape.key_heads;
  args.key_dim = shape.key_dim;
  args.value_dim = shape.value_dim;
  // Whole pieces of 16 bytes, as a pool has them.
  return (engine::GatedDeltaRingNumbers(args) + 3) / 4 * 4;
}

std::vector<float> GatedDeltaCase::RowOut(int32_t row) const {
  return {out.begin() + row_starts[row] * values(),
          out.begin() + row_starts[row + 1] * values()};
}

std::vector<float> GatedDeltaCase::SlotState(int32_t slot) const {
  return {state.begin() + slot * state_numbers(),
          state.begin() + (slot + 1) * state_numbers()};
}

std::vector<float> GatedDeltaCase::SlotWindow(int32_t slot) const {
  return {window.begin() + slot * window_numbers(),
          window.begin() + (slot + 1) * window_numbers()};
}

std::vector<float> GatedDeltaCase::SlotRing(int32_t slot) const {
  return {ring.begin() + slot * ring_numbers(),
          ring.begin() + (slot + 1) * ring_numbers()};
}

void GatedDeltaCase::RunReference() {
  for (size_t row = 0; row < slots.size(); ++row) {
    if (slots[row] >= 0) ReferenceRow(row);
  }
}

void GatedDeltaCase::ReferenceRow(size_t row) {
  const int64_t width = shape.conv_width;
  float* held = window.data() + slots[row] * window_numbers();
  float* kept = state.data() + slots[row] * state_numbers();
  std::vector<double> s(kept, kept + state_numbers());
  if (consumed[row] == 0) std::fill(s.begin(), s.end(), 0.0);
  for (int64_t t = row_starts[row]; t < row_starts[row + 1]; ++t) {
    const int64_t n = consumed[row] + t - row_starts[row];
    const float* x = projected.data() + t * columns();
    std::copy_n(x, mixed(), held + n % width * mixed());
    std::vector<double> y(mixed());
    for (int64_t c = 0; c < mixed(); ++c) {
      double sum = shape.bias ? conv_bias[c] : 0;
      for (int64_t back = 0; back < std::min(width, n + 1); ++back) {
        sum += double{conv_weight[c * width + width - 1 - back]} *
               held[(n - back) % width * mixed() + c];
      }
      y[c] = sum * Sigmoid(sum);
    }
    const int64_t dim = shape.key_dim;
    for (int32_t h = 0; h < shape.key_heads; ++h) {
      Normalize(1 / std::sqrt(double(dim)), {y.data() + h * dim, size_t(dim)});
      Normalize(1, {y.data() + keys() + h * dim, size_t(dim)});
    }
    const float* z = x + mixed();
    for (int32_t h = 0; h < shape.heads; ++h) {
      const double raw = double{z[values() + h]} + dt_bias[h];
      const double d = std::exp(-std::exp(double{a_log[h]}) *
                                (raw > 30 ? raw : std::log1p(std::exp(raw))));
      const double beta = Sigmoid(z[values() + shape.heads + h]);
      const double* q = y.data() + h / (shape.heads / shape.key_heads) * dim;
      const double* k = q + keys();
      std::vector<double> o(shape.value_dim);
      double squares = 0;
      for (int64_t v = 0; v < shape.value_dim; ++v) {
        const int64_t value = h * shape.value_dim + v;
        double* line = s.data() + value * dim;
        double met = 0;
        for (int64_t i = 0; i < dim; ++i) met += line[i] * k[i];
        const double u = beta * (y[2 * keys() + value] - d * met);
        for (int64_t i = 0; i < dim; ++i) {
          line[i] = d * line[i] + u * k[i];
          o[v] += line[i] * q[i];
        }
        squares += o[v] * o[v];
      }
      for (int64_t v = 0; v < shape.value_dim; ++v) {
        double e = o[v] / std::sqrt(squares / shape.value_dim + kNormEps) *
                   norm_weight[v];
        const double gate = z[h * shape.value_dim + v];
        if (shape.gate == GateKind::kSilu) e *= gate * Sigmoid(gate);
        if (shape.gate == GateKind::kSigmoid) e *= Sigmoid(gate);
        out[t * values() + h * shape.value_dim + v] = static_cast<float>(e);
      }
    }
  }
  if (row_starts[row] == row_starts[row + 1]) return;
  for (int64_t i = 0; i < state_numbers(); ++i) {
    kept[i] = static_cast<float>(s[i]);
  }
}

int32_t GatedDeltaCase::RowTokensMax() const {
  // With a row of none, token r is not row r's.
  int32_t most = tokens == static_cast<int64_t>(slots.size()) ? 1 : 2;
  for (size_t row = 0; row < slots.size(); ++row) {
    most = std::max(most, row_starts[row + 1] - row_starts[row]);
  }
  return most;
}

void GatedDeltaCase::RunOnDevice() {
  OnDevice([](const engine::GatedDeltaRingArgs& args) {
    return engine::GatedDeltaDecode(args.step, nullptr);
  });
}

void GatedDeltaCase::RunByRing() {
  OnDevice([](const engine::GatedDeltaRingArgs& args) {
    return engine::GatedDeltaRingDecode(args, nullptr);
  });
}

void GatedDeltaCase::FoldOnDevice(int32_t tokens_min) {
  OnDevice([&](engine::GatedDeltaRingArgs args) {
    args.step.row_tokens_min = tokens_min;
    return engine::FoldGatedDeltaRing(args, nullptr);
  });
}

engine::GatedDeltaDecodeArgs GatedDeltaCase::Shape() const {
  engine::GatedDeltaDecodeArgs args;
  args.rows = static_cast<int32_t>(slots.size());
  args.heads = shape.heads;
  args.key_heads = shape.key_heads;
  args.key_dim = shape.key_dim;
  args.value_dim = shape.value_dim;
  args.conv_width = shape.conv_width;
  args.row_tokens_max = RowTokensMax();
  return args;
}

std::vector<float> GatedDeltaCase::Log2Rates() const {
  std::vector<float> log2_rate;
  for (const float a : a_log) {
    log2_rate.push_back(
        static_cast<float>(-std::exp(double{a}) / std::log(2.0)));
  }
  return log2_rate;
}

void GatedDeltaCase::OnDevice(
    const std::function<cudaError_t(const engine::GatedDeltaRingArgs&)>& run) {
  const bool is_float = shape.number == StateNumber::kFloat32;
  const auto bits = [&](const std::vector<float>& x) {
    return is_float ? std::vector<uint16_t>() : Bfloat16s(x);
  };
  DeviceArray<int32_t> starts{std::span<const int32_t>(row_starts)};
  DeviceArray<int32_t> row_slots{std::span<const int32_t>(slots)};
  DeviceArray<uint32_t> before{std::span<const uint32_t>(consumed)};
  DeviceArray<float> x{std::span<const float>(projected)};
  DeviceArray<float> held{std::span<const float>(window)};
  DeviceArray<float> result{std::span<const float>(out)};
  DeviceArray<uint16_t> x_bits{std::span<const uint16_t>(bits(projected))};
  DeviceArray<uint16_t> held_bits{std::span<const uint16_t>(bits(window))};
  DeviceArray<uint16_t> result_bits{std::span<const uint16_t>(bits(out))};
  DeviceArray<float> weight{std::span<const float>(conv_weight)};
  DeviceArray<float> bias{std::span<const float>(conv_bias)};
  DeviceArray<float> rates{std::span<const float>(Log2Rates())};
  DeviceArray<float> steps{std::span<const float>(dt_bias)};
  DeviceArray<float> norm{std::span<const float>(norm_weight)};
  const bool is_float_state = shape.state_number == StateNumber::kFloat32;
  DeviceArray<float> kept{std::span<const float>(state)};
  DeviceArray<uint16_t> kept_bits{std::span<const uint16_t>(Bfloat16s(state))};
  DeviceArray<float> rings{std::span<const float>(ring)};
  engine::GatedDeltaDecodeArgs args = Shape();
  args.row_starts = starts.data();
  args.slots = row_slots.data();
  args.consumed = before.data();
  args.number = shape.number;
  args.projected = is_float ? static_cast<void*>(x.data()) : x_bits.data();
  args.projected_stride = columns();
  args.z_column = mixed();
  args.a_column = mixed() + values();
  args.b_column = mixed() + values() + shape.heads;
  args.conv_weight = weight.data();
  args.conv_bias = shape.bias ? bias.data() : nullptr;
  args.log2_rate = rates.data();
  args.dt_bias = steps.data();
  args.norm_weight = norm.data();
  args.norm_eps = kNormEps;
  args.gate = shape.gate;
  args.form = shape.form;
  args.begins_early = shape.begins_early;
  args.out = is_float ? static_cast<void*>(result.data()) : result_bits.data();
  args.out_stride = values();
  args.state_number = shape.state_number;
  args.state =
      is_float_state ? static_cast<void*>(kept.data()) : kept_bits.data();
  args.state_stride = state_numbers();
  args.window = is_float ? static_cast<void*>(held.data()) : held_bits.data();
  args.window_stride = window_numbers();
  DeviceArray<uint32_t> turns{2};
  turns.Set(std::vector<uint32_t>{0, 0});
  ASSERT_EQ(run({.step = args,
                 .ring = rings.data(),
                 .ring_stride = ring_numbers(),
                 .turns = turns.data(),
                 .form = ring_form,
                 .block_values = block_values}),
            cudaSuccess);
  Must(cudaDeviceSynchronize(), "Gated DeltaNet's step");
  out = is_float ? result.Get() : Floats(result_bits.Get());
  window = is_float ? held.Get() : Floats(held_bits.Get());
  state = is_float_state ? kept.Get() : Floats(kept_bits.Get());
  ring = rings.Get();
  EXPECT_EQ(turns.Get(), (std::vector<uint32_t>{0, 0}));
}

}  // namespace weir::gpu
