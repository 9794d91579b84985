// SPDX-License-Identifier: Apache-2.0
//
// What RWKV's token shift on a GPU must do, to the bit.
#include "engine/kernels/cuda/token_shift.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <random>
#include <span>
#include <string>
#include <vector>

#include "tests/gpu/device_array.h"
#include "tests/gpu/device_recurrence.h"

namespace weir::gpu {
namespace {

using engine::ShiftedRows;
using engine::ShiftShares;
using engine::StateNumber;

constexpr float kNan = std::numeric_limits<float>::quiet_NaN();
constexpr float kMark = -7.5e30F;
constexpr int64_t kGap = 3;
constexpr int32_t kFreeSlots = 2;
constexpr int32_t kShares = 3;

template <typename T>
DeviceArray<T> OnDevice(const std::vector<T>& host) {
  return DeviceArray<T>(std::span<const T>(host));
}

bool BitEqual(const std::vector<float>& a, const std::vector<float>& b) {
  return a.size() == b.size() &&
         std::memcmp(a.data(), b.data(), a.size() * sizeof(float)) == 0;
}

// A ragged batch: row r has row_tokens[r] tokens and slot r, and none is fresh.
struct ShiftCase {
  ShiftCase(int32_t channels_in, const std::vector<int32_t>& row_tokens)
      : channels(channels_in),
        consumed(row_tokens.size(), 9),
        state_stride(channels_in + kGap) {
    for (const int32_t count : row_tokens) {
      slots.push_back(static_cast<int32_t>(slots.size()));
      row_starts.push_back(row_starts.back() + count);
    }
    std::mt19937 random(20240408);
    std::normal_distribution<float> normal;
    const auto fill = [&](std::vector<float>& values, int64_t size) {
      values.resize(static_cast<size_t>(size));
      for (float& value : values) value = normal(random);
    };
    const int64_t tokens = row_starts.back();
    pitch = tokens * channels + kGap;
    fill(x, tokens * channels);
    fill(mix, int64_t{kShares} * channels);
    fill(add, kShares * pitch);
    fill(state, (rows() + kFreeSlots) * state_stride);
    out.assign(add.size(), kMark);
  }

  int32_t rows() const { return static_cast<int32_t>(slots.size()); }
  float* Out(int32_t share, int64_t token) {
    return out.data() + share * pitch + token * channels;
  }
  float* State(int32_t slot) { return state.data() + slot * state_stride; }

  void RunOnHost();
  void RunOnDevice();

  int32_t channels;
  bool adds = true;
  StateNumber number = StateNumber::kFloat32;  // of `out`
  std::vector<int32_t> row_starts = {0};
  std::vector<int32_t> slots;
  std::vector<uint32_t> consumed;
  int64_t pitch = 0;
  int64_t state_stride;
  std::vector<float> x, mix, add, state, out;
};

// One operation after another, as the kernel has them.
void ShiftCase::RunOnHost() {
  for (int32_t row = 0; row < rows(); ++row) {
    const int32_t slot = slots[row];
    std::vector<float> before(static_cast<size_t>(channels), 0.0F);
    if (slot >= 0 && consumed[row] != 0) {
      std::copy_n(State(slot), channels, before.begin());
    }
    for (int64_t t = row_starts[row]; t < row_starts[row + 1]; ++t) {
      for (int32_t c = 0; c < channels; ++c) {
        const float now = slot < 0 ? 0.0F : x[t * channels + c];
        const float delta = slot < 0 ? 0.0F : before[c] - now;
        for (int32_t share = 0; share < kShares; ++share) {
          const int64_t at = share * pitch + t * channels + c;
          float part = mix[int64_t{share} * channels + c];
          if (adds && slot >= 0) part += add[at];
          const float y = std::fma(delta, part, now);
          out[at] =
              number == StateNumber::kFloat32 ? y : FromBfloat16(ToBfloat16(y));
        }
        before[c] = now;
      }
    }
    if (slot >= 0 && row_starts[row] < row_starts[row + 1]) {
      std::copy_n(before.begin(), channels, State(slot));
    }
  }
}

void ShiftCase::RunOnDevice() {
  DeviceArray<int32_t> starts = OnDevice(row_starts);
  DeviceArray<int32_t> slots_there = OnDevice(slots);
  DeviceArray<uint32_t> consumed_there = OnDevice(consumed);
  DeviceArray<float> x_there = OnDevice(x);
  DeviceArray<float> mix_there = OnDevice(mix);
  DeviceArray<float> add_there = OnDevice(add);
  DeviceArray<float> state_there = OnDevice(state);
  DeviceArray<float> out_there = OnDevice(out);
  std::vector<uint16_t> narrow(out.size(), ToBfloat16(kMark));
  DeviceArray<uint16_t> narrow_there = OnDevice(narrow);
  const bool is_wide = number == StateNumber::kFloat32;
  const ShiftedRows shifted = {.of = {.rows = rows(),
                                      .tokens = row_starts.back(),
                                      .row_starts = starts.data(),
                                      .slots = slots_there.data(),
                                      .consumed = consumed_there.data()},
                               .channels = channels,
                               .x = x_there.data(),
                               .state = state_there.data(),
                               .state_stride = state_stride};
  const ShiftShares shares = {
      .count = kShares,
      .mix = mix_there.data(),
      .add = adds ? add_there.data() : nullptr,
      .number = number,
      .out = is_wide ? static_cast<void*>(out_there.data())
                     : static_cast<void*>(narrow_there.data()),
      .pitch = pitch};

  ASSERT_EQ(MixShiftedRows(shifted, shares, nullptr), cudaSuccess);
  ASSERT_TRUE(BitEqual(state_there.Get(), state));
  ASSERT_EQ(KeepLastRows(shifted, nullptr), cudaSuccess);
  ASSERT_EQ(cudaDeviceSynchronize(), cudaSuccess);

  state = state_there.Get();
  if (is_wide) {
    out = out_there.Get();
    return;
  }
  narrow = narrow_there.Get();
  std::transform(narrow.begin(), narrow.end(), out.begin(), FromBfloat16);
}

class TokenShiftTest : public testing::TestWithParam<int32_t> {
 protected:
  static ShiftCase Case(const std::vector<int32_t>& row_tokens) {
    return {GetParam(), row_tokens};
  }

  static void ExpectAsOnHost(const ShiftCase& start) {
    ShiftCase got = start;
    ShiftCase want = start;
    if (start.number == StateNumber::kBfloat16) {
      std::fill(
          want.out.begin(), want.out.end(), FromBfloat16(ToBfloat16(kMark)));
    }
    got.RunOnDevice();
    want.RunOnHost();
    EXPECT_TRUE(BitEqual(got.out, want.out));
    // With slots that no row names.
    EXPECT_TRUE(BitEqual(got.state, want.state));
  }
};

INSTANTIATE_TEST_SUITE_P(Channels,
                         TokenShiftTest,
                         testing::Values(8, 72, 256, 520),
                         [](const auto& info) {
                           return std::to_string(info.param);
                         });

TEST_P(TokenShiftTest, MovesEachTokenTowardsTheOneBeforeIt) {
  ShiftCase start = Case({1, 0, 2, 70, 5, 1, 0});
  start.slots = {4, 2, 0, 7, -1, 8, -1};
  start.consumed = {1, 0, 0, 5, 7, 0, 0};
  for (const bool adds : {true, false}) {
    start.adds = adds;
    for (const auto number : {StateNumber::kFloat32, StateNumber::kBfloat16}) {
      start.number = number;
      ExpectAsOnHost(start);
    }
  }
}

TEST_P(TokenShiftTest, AnySplitGivesTheSameBits) {
  ShiftCase whole = Case({40});
  ShiftCase split = whole;
  whole.RunOnDevice();
  int32_t at = 0;
  for (const int32_t count : {1, 2, 0, 1, 33, 3}) {
    ShiftCase piece = split;
    piece.row_starts = {0, count};
    piece.x = {split.x.begin() + int64_t{at} * split.channels, split.x.end()};
    for (int32_t share = 0; share < kShares; ++share) {
      std::copy_n(split.add.begin() + share * split.pitch +
                      int64_t{at} * split.channels,
                  int64_t{count} * split.channels,
                  piece.add.begin() + share * split.pitch);
    }
    piece.RunOnDevice();
    split.state = piece.state;
    for (int32_t share = 0; share < kShares; ++share) {
      std::copy_n(piece.Out(share, 0),
                  int64_t{count} * split.channels,
                  split.Out(share, at));
    }
    at += count;
  }
  ASSERT_EQ(at, 40);
  EXPECT_TRUE(BitEqual(split.out, whole.out));
  EXPECT_TRUE(BitEqual(split.state, whole.state));
}

TEST_P(TokenShiftTest, AFreshSlotReadsAsZeroWhateverItHolds) {
  ShiftCase fresh = Case({3, 1});
  fresh.consumed = {0, 0};
  ShiftCase zero = fresh;
  std::fill(fresh.state.begin(), fresh.state.end(), kNan);
  zero.consumed = {1, 1};
  std::fill(zero.state.begin(), zero.state.end(), 0.0F);

  fresh.RunOnDevice();
  zero.RunOnDevice();

  EXPECT_TRUE(BitEqual(fresh.out, zero.out));
  for (const int32_t slot : {0, 1}) {
    EXPECT_EQ(std::memcmp(fresh.State(slot),
                          zero.State(slot),
                          sizeof(float) * static_cast<size_t>(fresh.channels)),
              0);
  }
}

TEST_P(TokenShiftTest, TokensOfPaddingGiveZeroAndReadNothing) {
  ShiftCase padding = Case({4, 2});
  padding.slots = {-1, -1};
  padding.consumed = {0, 7};
  std::fill(padding.x.begin(), padding.x.end(), kNan);
  std::fill(padding.add.begin(), padding.add.end(), kNan);
  // Were an address formed for slot -1, it would be far outside.
  const std::vector<float> state = padding.state;
  padding.state_stride = int64_t{1} << 44;

  padding.RunOnDevice();

  for (int32_t share = 0; share < kShares; ++share) {
    for (int64_t i = 0; i < int64_t{6} * padding.channels; ++i) {
      ASSERT_EQ(padding.Out(share, 0)[i], 0.0F);
    }
  }
  EXPECT_TRUE(BitEqual(padding.state, state));
}

TEST(TokenShiftRefusalTest, NoChannels) {
  EXPECT_EQ(engine::KeepLastRows({}, nullptr), cudaErrorInvalidValue);
  EXPECT_EQ(engine::MixShiftedRows({}, {}, nullptr), cudaErrorInvalidValue);
}

}  // namespace
}  // namespace weir::gpu
