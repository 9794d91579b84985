// SPDX-License-Identifier: Apache-2.0
//
// What RWKV-4's recurrence on a GPU must do, against the fp64 reference.
#include "engine/kernels/cuda/wkv.h"

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

using engine::kWkvEmpty;
using engine::kWkvSums;
using engine::StateNumber;
using engine::WkvArgs;

constexpr float kNan = std::numeric_limits<float>::quiet_NaN();
constexpr float kMark = -7.5e30F;
constexpr int64_t kGap = 3;
constexpr int32_t kFreeSlots = 2;
constexpr double kRmseMax = 1e-6;
constexpr double kStateMax = 4e-6;

template <typename T>
DeviceArray<T> OnDevice(const std::vector<T>& host) {
  return DeviceArray<T>(std::span<const T>(host));
}

bool BitEqual(const std::vector<float>& a, const std::vector<float>& b) {
  return a.size() == b.size() &&
         std::memcmp(a.data(), b.data(), a.size() * sizeof(float)) == 0;
}

double RelativeRmse(const std::vector<float>& got,
                    const std::vector<float>& want) {
  double error = 0;
  double square = 0;
  for (size_t i = 0; i < want.size(); ++i) {
    error += std::pow(double{got[i]} - want[i], 2);
    square += std::pow(double{want[i]}, 2);
  }
  return std::sqrt(error / square);
}

// Row r has row_tokens[r] tokens and slot r, all of them fresh.
struct WkvCase {
  WkvCase(int32_t channels_in,
          const std::vector<int32_t>& row_tokens,
          float key_scale)
      : channels(channels_in),
        stride(channels_in + kGap),
        sums_stride(int64_t{kWkvSums} * channels_in + kGap),
        consumed(row_tokens.size(), 0) {
    for (const int32_t count : row_tokens) {
      slots.push_back(static_cast<int32_t>(slots.size()));
      row_starts.push_back(row_starts.back() + count);
    }
    std::mt19937 random(20230522);
    std::normal_distribution<float> normal;
    const auto fill = [&](std::vector<float>& values, int64_t n, float scale) {
      values.resize(static_cast<size_t>(n));
      for (float& value : values) value = scale * normal(random);
    };
    fill(k, row_starts.back() * stride, key_scale);
    fill(v, row_starts.back() * stride, 1);
    fill(r, row_starts.back() * stride, 1);
    fill(bonus, channels, 2);
    rate.resize(static_cast<size_t>(channels));
    // From what forgets nothing in a million tokens to what forgets at once.
    for (int32_t c = 0; c < channels; ++c) {
      rate[c] = std::exp(-14.0F + 19.0F * static_cast<float>(c) /
                                      static_cast<float>(channels));
    }
    rate[0] = 0;
    rate.back() = std::numeric_limits<float>::infinity();
    out.assign(static_cast<size_t>(row_starts.back() * channels), kMark);
    sums.assign(static_cast<size_t>((rows() + kFreeSlots) * sums_stride), kNan);
    exponent.assign(static_cast<size_t>((rows() + kFreeSlots) * stride), kNan);
  }

  int32_t rows() const { return static_cast<int32_t>(slots.size()); }
  WkvArgs Args();
  void RunReference();
  void RunOnDevice();

  std::vector<float> RowOut(int32_t row) const {
    return {out.begin() + int64_t{row_starts[row]} * channels,
            out.begin() + int64_t{row_starts[row + 1]} * channels};
  }
  double Sum(int32_t slot, int32_t channel, int32_t index) const {
    return sums[slot * sums_stride + int64_t{index} * channels + channel];
  }
  double Denominator(int32_t slot, int32_t c) const {
    return Sum(slot, c, 2) + Sum(slot, c, 3);
  }
  double Average(int32_t slot, int32_t c) const {
    return (Sum(slot, c, 0) + Sum(slot, c, 1)) / Denominator(slot, c);
  }
  double LogDenominator(int32_t slot, int32_t c) const {
    return std::log(Denominator(slot, c)) + exponent[slot * stride + c] +
           Sum(slot, c, 4);
  }

  int32_t channels;
  int64_t stride;
  int64_t sums_stride;
  StateNumber number = StateNumber::kFloat32;  // of `out`
  std::vector<int32_t> row_starts = {0};
  std::vector<int32_t> slots;
  std::vector<uint32_t> consumed;
  std::vector<float> k, v, r, out, rate, bonus;
  std::vector<float> sums, exponent;
};

WkvArgs WkvCase::Args() {
  return {.rows = rows(),
          .channels = channels,
          .row_starts = row_starts.data(),
          .slots = slots.data(),
          .k = {k.data(), stride},
          .v = {v.data(), stride},
          .rate = rate.data(),
          .bonus = bonus.data(),
          .out = out.data(),
          .out_stride = channels,
          .sums = sums.data(),
          .sums_stride = sums_stride,
          .exponent = exponent.data(),
          .exponent_stride = stride};
}

void WkvCase::RunReference() {
  for (int32_t row = 0; row < rows(); ++row) {
    if (consumed[row] != 0 || slots[row] < 0 ||
        row_starts[row] == row_starts[row + 1]) {
      continue;
    }
    std::fill_n(sums.begin() + slots[row] * sums_stride,
                int64_t{kWkvSums} * channels,
                0.0F);
    std::fill_n(exponent.begin() + slots[row] * stride, channels, kWkvEmpty);
  }
  engine::WkvReference(Args());
  for (int32_t row = 0; row < rows(); ++row) {
    if (slots[row] < 0) continue;
    for (int64_t t = row_starts[row]; t < row_starts[row + 1]; ++t) {
      for (int32_t c = 0; c < channels; ++c) {
        const double gate = 1 / (1 + std::exp(-double{r[t * stride + c]}));
        float& y = out[t * channels + c];
        y = static_cast<float>(gate * y);
      }
    }
  }
}

void WkvCase::RunOnDevice() {
  DeviceArray<int32_t> starts = OnDevice(row_starts);
  DeviceArray<int32_t> slots_there = OnDevice(slots);
  DeviceArray<uint32_t> consumed_there = OnDevice(consumed);
  DeviceArray<float> k_there = OnDevice(k);
  DeviceArray<float> v_there = OnDevice(v);
  DeviceArray<float> r_there = OnDevice(r);
  DeviceArray<float> rate_there = OnDevice(rate);
  DeviceArray<float> bonus_there = OnDevice(bonus);
  DeviceArray<float> sums_there = OnDevice(sums);
  DeviceArray<float> exponent_there = OnDevice(exponent);
  DeviceArray<float> out_there = OnDevice(out);
  std::vector<uint16_t> narrow(out.size(), ToBfloat16(kMark));
  DeviceArray<uint16_t> narrow_there = OnDevice(narrow);
  const bool is_wide = number == StateNumber::kFloat32;
  engine::WkvRowsArgs args = {
      .wkv = Args(),
      .consumed = consumed_there.data(),
      .r = {r_there.data(), stride},
      .number = number,
      .out = is_wide ? static_cast<void*>(out_there.data())
                     : static_cast<void*>(narrow_there.data())};
  args.wkv.row_starts = starts.data();
  args.wkv.slots = slots_there.data();
  args.wkv.k.data = k_there.data();
  args.wkv.v.data = v_there.data();
  args.wkv.rate = rate_there.data();
  args.wkv.bonus = bonus_there.data();
  args.wkv.sums = sums_there.data();
  args.wkv.exponent = exponent_there.data();
  args.wkv.out = nullptr;

  ASSERT_EQ(engine::WkvRows(args, nullptr), cudaSuccess);
  ASSERT_EQ(cudaDeviceSynchronize(), cudaSuccess);

  sums = sums_there.Get();
  exponent = exponent_there.Get();
  if (is_wide) {
    out = out_there.Get();
    return;
  }
  narrow = narrow_there.Get();
  std::transform(narrow.begin(), narrow.end(), out.begin(), FromBfloat16);
}

// The same n and d, however exponent and parts share them.
void ExpectSameState(const WkvCase& got, const WkvCase& want) {
  for (int32_t row = 0; row < want.rows(); ++row) {
    const int32_t slot = want.slots[row];
    if (slot < 0 || want.row_starts[row] == want.row_starts[row + 1]) continue;
    for (int32_t c = 0; c < want.channels; ++c) {
      const double average = want.Average(slot, c);
      EXPECT_NEAR(
          got.Average(slot, c), average, kStateMax * (1 + std::fabs(average)));
      EXPECT_NEAR(
          got.LogDenominator(slot, c), want.LogDenominator(slot, c), kStateMax);
    }
  }
}

class WkvTest : public testing::TestWithParam<int32_t> {
 protected:
  static WkvCase Case(const std::vector<int32_t>& row_tokens,
                      float key_scale = 3) {
    return {GetParam(), row_tokens, key_scale};
  }

  static void ExpectNearReference(const WkvCase& start) {
    WkvCase got = start;
    WkvCase want = start;
    got.RunOnDevice();
    want.RunReference();
    for (int32_t row = 0; row < start.rows(); ++row) {
      if (start.row_starts[row] == start.row_starts[row + 1]) continue;
      if (start.slots[row] < 0) {
        EXPECT_THAT(got.RowOut(row), testing::Each(kMark));
        continue;
      }
      EXPECT_LE(RelativeRmse(got.RowOut(row), want.RowOut(row)), kRmseMax);
    }
    ExpectSameState(got, want);
  }
};

INSTANTIATE_TEST_SUITE_P(Channels,
                         WkvTest,
                         testing::Values(7, 64, 130),
                         [](const auto& info) {
                           return std::to_string(info.param);
                         });

TEST_P(WkvTest, EqualsTheReferenceOverARaggedBatch) {
  for (const float key_scale : {0.1F, 3.0F, 30.0F}) {
    SCOPED_TRACE(key_scale);
    WkvCase start = Case({1, 0, 2, 9, 5, 600}, key_scale);
    start.slots = {4, 2, 0, 5, -1, 1};
    ExpectNearReference(start);
  }
}

TEST_P(WkvTest, GoesOnFromWhatASlotHolds) {
  WkvCase start = Case({40, 3});
  start.RunOnDevice();
  start.consumed = {40, 3};
  ExpectNearReference(start);
}

TEST_P(WkvTest, ManyTokensStayWithinTheTolerance) {
  ExpectNearReference(Case({20'000}));
}

TEST_P(WkvTest, EqualKeysDecayAsTheyShould) {
  WkvCase start = Case({20'000});
  std::fill(start.k.begin(), start.k.end(), 2.25F);
  ExpectNearReference(start);
}

TEST_P(WkvTest, AnyLargeKeyFadesAndIsForgotten) {
  for (const float first : {80.0F, 1e4F, -1e4F}) {
    SCOPED_TRACE(first);
    WkvCase start = Case({3000});
    for (int32_t c = 0; c < start.channels; ++c) start.k[c] = first;
    ExpectNearReference(start);
  }
}

TEST_P(WkvTest, AnySplitOfARowGivesTheSameBits) {
  WkvCase whole = Case({20});
  WkvCase split = whole;

  whole.RunOnDevice();
  int32_t at = 0;
  for (const int32_t count : {1, 2, 0, 1, 9, 7}) {
    split.row_starts = {at, at + count};
    split.consumed = {static_cast<uint32_t>(at)};
    split.RunOnDevice();
    at += count;
  }

  ASSERT_EQ(at, 20);
  EXPECT_TRUE(BitEqual(split.out, whole.out));
  EXPECT_TRUE(BitEqual(split.sums, whole.sums));
  EXPECT_TRUE(BitEqual(split.exponent, whole.exponent));
}

TEST_P(WkvTest, NeighboursDoNotMatterAndSlotsOfNobodyStay) {
  WkvCase together = Case({5, 1, 70});
  WkvCase alone = together;
  together.RunOnDevice();
  const std::vector<int32_t> slots = alone.slots;
  for (const int32_t row : {2, 0, 1}) {
    alone.slots.assign(slots.size(), -1);
    alone.slots[row] = slots[row];
    alone.RunOnDevice();
  }
  EXPECT_TRUE(BitEqual(alone.out, together.out));
  // With gaps, and slots that hold a NaN since the beginning.
  EXPECT_TRUE(BitEqual(alone.sums, together.sums));
  EXPECT_TRUE(BitEqual(alone.exponent, together.exponent));
}

TEST_P(WkvTest, APaddingRowIsNeitherReadNorWritten) {
  WkvCase padding = Case({4, 4});
  padding.slots = {-1, -1};
  padding.consumed = {0, 3};
  const WkvCase before = padding;
  // Were an address formed for slot -1, it would be far outside.
  padding.sums_stride = int64_t{1} << 44;

  padding.RunOnDevice();

  EXPECT_TRUE(BitEqual(padding.out, before.out));
  EXPECT_TRUE(BitEqual(padding.sums, before.sums));
  EXPECT_TRUE(BitEqual(padding.exponent, before.exponent));
}

TEST_P(WkvTest, ANanStaysInItsChannelAndShows) {
  WkvCase clean = Case({6, 6});
  clean.RunOnDevice();
  for (std::vector<float> WkvCase::*marked_part : {&WkvCase::k, &WkvCase::v}) {
    WkvCase marked = Case({6, 6});
    (marked.*marked_part)[2 * marked.stride + 1] = kNan;
    marked.RunOnDevice();
    for (int32_t t = 0; t < 12; ++t) {
      for (int32_t c = 0; c < marked.channels; ++c) {
        const int64_t at = int64_t{t} * marked.channels + c;
        if (c == 1 && t >= 2 && t < 6) {
          EXPECT_TRUE(std::isnan(marked.out[at])) << t;
        } else {
          EXPECT_EQ(marked.out[at], clean.out[at]);
        }
      }
    }
    EXPECT_TRUE(std::isnan(marked.sums[1]));
  }
}

TEST_P(WkvTest, OutputsOfBfloat16AreTheNearest) {
  WkvCase wide = Case({3, 40});
  WkvCase narrow = wide;
  narrow.number = StateNumber::kBfloat16;

  wide.RunOnDevice();
  narrow.RunOnDevice();

  for (float& y : wide.out) y = FromBfloat16(ToBfloat16(y));
  EXPECT_TRUE(BitEqual(narrow.out, wide.out));
  EXPECT_TRUE(BitEqual(narrow.sums, wide.sums));
}

TEST(WkvRefusalTest, NoChannels) {
  EXPECT_EQ(engine::WkvRows({}, nullptr), cudaErrorInvalidValue);
}

}  // namespace
}  // namespace weir::gpu
