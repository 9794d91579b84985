// SPDX-License-Identifier: Apache-2.0
#include "tests/gpu/selective_scan_case.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <random>
#include <span>

#include "tests/gpu/device_array.h"
#include "tests/gpu/device_recurrence.h"

namespace weir::gpu {

using engine::ScanRowsArgs;
using engine::SelectiveScanArgs;
using engine::StateNumber;

namespace {

constexpr int64_t kGap = 3;
constexpr int32_t kFreeSlots = 2;

template <typename T>
DeviceArray<T> OnDevice(const std::vector<T>& host) {
  return DeviceArray<T>(std::span<const T>(host));
}

}  // namespace

ScanCase::ScanCase(int32_t channels_in,
                   int32_t states_in,
                   const std::vector<int32_t>& row_tokens)
    : channels(channels_in),
      states(states_in),
      consumed(row_tokens.size(), 9),
      stride(channels_in + kGap),
      selected_stride(2 * states_in + kGap),
      state_stride(int64_t{states_in} * channels_in + kGap) {
  for (const int32_t count : row_tokens) {
    slots.push_back(static_cast<int32_t>(slots.size()));
    row_starts.push_back(row_starts.back() + count);
  }
  const int64_t tokens = row_starts.back();
  std::mt19937 random(20240603);
  std::normal_distribution<float> normal;
  const auto fill = [&](std::vector<float>& values, int64_t size) {
    values.resize(static_cast<size_t>(size));
    for (float& value : values) value = normal(random);
  };
  out.assign(static_cast<size_t>(tokens * stride), kScanMark);
  fill(dt, tokens * stride);
  fill(x, tokens * stride);
  fill(z, tokens * stride);
  fill(bc, tokens * selected_stride);
  fill(dt_bias, channels);
  fill(d, channels);
  fill(state, (rows() + kFreeSlots) * state_stride);
  fill(rate, int64_t{states} * channels);
  for (float& value : dt_bias) value -= 2;
  // Decays from next to one to next to nothing.
  for (float& value : rate) value = -std::exp(2 * value);
}

SelectiveScanArgs ScanCase::Args() {
  SelectiveScanArgs args;
  args.rows = rows();
  args.channels = channels;
  args.states = states;
  args.row_starts = row_starts.data();
  args.slots = slots.data();
  args.dt = {dt.data(), stride};
  args.x = {x.data(), stride};
  args.b = {bc.data(), selected_stride};
  args.c = {bc.data() + states, selected_stride};
  if (gated) args.z = {z.data(), stride};
  args.dt_bias = dt_bias.data();
  args.rate = rate.data();
  args.d = d.data();
  args.out = out.data();
  args.out_stride = stride;
  args.state = state.data();
  args.state_stride = state_stride;
  return args;
}

void ScanCase::RunReference() {
  for (int32_t row = 0; row < rows(); ++row) {
    if (consumed[row] != 0 || slots[row] < 0 ||
        row_starts[row] == row_starts[row + 1]) {
      continue;
    }
    std::fill_n(state.begin() + slots[row] * state_stride,
                int64_t{states} * channels,
                0.0F);
  }
  engine::SelectiveScanReference(Args());
}

void ScanCase::RunOnDevice() {
  const int64_t tokens = row_starts.back();
  DeviceArray<int32_t> starts = OnDevice(row_starts);
  DeviceArray<int32_t> slots_there = OnDevice(slots);
  DeviceArray<uint32_t> consumed_there = OnDevice(consumed);
  DeviceArray<float> dt_there = OnDevice(dt);
  DeviceArray<float> x_there = OnDevice(x);
  DeviceArray<float> z_there = OnDevice(z);
  DeviceArray<float> bc_there = OnDevice(bc);
  DeviceArray<float> bias_there = OnDevice(dt_bias);
  DeviceArray<float> rate_there = OnDevice(rate);
  DeviceArray<float> d_there = OnDevice(d);
  DeviceArray<float> state_there = OnDevice(state);
  DeviceArray<float> out_there = OnDevice(out);
  std::vector<uint16_t> narrow(out.size(), ToBfloat16(kScanMark));
  DeviceArray<uint16_t> narrow_there = OnDevice(narrow);
  // What a kernel reads there before it writes it is not a number.
  const int64_t floats = engine::ScanWorkspaceFloats(tokens, channels, states);
  std::vector<float> scratch(static_cast<size_t>(floats + kGap), NAN);
  std::fill(scratch.end() - kGap, scratch.end(), kScanMark);
  DeviceArray<float> workspace = OnDevice(scratch);
  ScanRowsArgs args;
  args.scan = Args();
  args.scan.row_starts = starts.data();
  args.scan.slots = slots_there.data();
  args.scan.dt.data = dt_there.data();
  args.scan.x.data = x_there.data();
  if (gated) args.scan.z.data = z_there.data();
  args.scan.b.data = bc_there.data();
  args.scan.c.data = bc_there.data() + states;
  args.scan.dt_bias = bias_there.data();
  args.scan.rate = rate_there.data();
  args.scan.d = d_there.data();
  args.scan.state = state_there.data();
  args.scan.out = nullptr;
  args.tokens = tokens;
  for (int32_t row = 0; row < rows(); ++row) {
    args.longest_row =
        std::max(args.longest_row, row_starts[row + 1] - row_starts[row]);
  }
  args.consumed = consumed_there.data();
  args.number = number;
  args.out = number == StateNumber::kFloat32
                 ? static_cast<void*>(out_there.data())
                 : static_cast<void*>(narrow_there.data());
  args.workspace = floats > 0 ? workspace.data() : nullptr;

  ASSERT_EQ(engine::ScanRows(args, nullptr), cudaSuccess);
  ASSERT_EQ(cudaDeviceSynchronize(), cudaSuccess);

  state = state_there.Get();
  scratch = workspace.Get();
  EXPECT_EQ(std::count(scratch.end() - kGap, scratch.end(), kScanMark), kGap);
  if (number == StateNumber::kFloat32) {
    out = out_there.Get();
    return;
  }
  narrow = narrow_there.Get();
  std::transform(narrow.begin(), narrow.end(), out.begin(), FromBfloat16);
}

std::vector<float> ScanCase::RowOut(int32_t row) const {
  std::vector<float> values;
  for (int64_t t = row_starts[row]; t < row_starts[row + 1]; ++t) {
    const auto first = out.begin() + t * stride;
    values.insert(values.end(), first, first + channels);
  }
  return values;
}

std::vector<float> ScanCase::SlotState(int32_t slot) const {
  const auto first = state.begin() + slot * state_stride;
  return {first, first + int64_t{states} * channels};
}

}  // namespace weir::gpu
