// SPDX-License-Identifier: Apache-2.0
//
// What RWKV-4's recurrence must do, on every target of the machine.
#include "engine/kernels/wkv.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <random>
#include <string>
#include <tuple>
#include <vector>

#include "engine/kernels/kernel_target.h"

namespace weir::engine {
namespace {

constexpr float kNan = std::numeric_limits<float>::quiet_NaN();
constexpr float kMark = -7.5e30F;
constexpr int64_t kGap = 3;

struct WkvCase {
  WkvCase(int32_t channels_in,
          const std::vector<int32_t>& row_tokens,
          float key_scale)
      : channels(channels_in), stride(channels_in + kGap) {
    for (const int32_t count : row_tokens) {
      slots.push_back(static_cast<int32_t>(slots.size()));
      row_starts.push_back(row_starts.back() + count);
    }
    std::mt19937 random(20230522);
    std::normal_distribution<float> normal;
    k.resize(row_starts.back() * stride);
    v.resize(k.size());
    out.assign(k.size(), kMark);
    rate.resize(channels);
    bonus.resize(channels);
    for (float& x : k) x = key_scale * normal(random);
    for (float& x : v) x = normal(random);
    for (float& x : bonus) x = 2 * normal(random);
    // From what forgets nothing in a million tokens to what forgets at once.
    for (int32_t c = 0; c < channels; ++c) {
      rate[c] = std::exp(-14.0F + 19.0F * static_cast<float>(c) /
                                      static_cast<float>(channels));
    }
    rate[0] = 0;
    rate.back() = std::numeric_limits<float>::infinity();
    sums_stride = int64_t{kWkvSums} * channels + kGap;
    sums.assign(slots.size() * sums_stride, 0);
    exponent.assign(slots.size() * stride, kWkvEmpty);
  }

  WkvArgs Args() {
    return {.rows = static_cast<int32_t>(slots.size()),
            .channels = channels,
            .row_starts = row_starts.data(),
            .slots = slots.data(),
            .k = {k.data(), stride},
            .v = {v.data(), stride},
            .rate = rate.data(),
            .bonus = bonus.data(),
            .out = out.data(),
            .out_stride = stride,
            .sums = sums.data(),
            .sums_stride = sums_stride,
            .exponent = exponent.data(),
            .exponent_stride = stride};
  }
  void Run() {
    Wkv(Args(), 0, static_cast<int64_t>(slots.size()) * WkvBlocks(channels));
  }

  double Sum(size_t slot, int32_t channel, int32_t index) const {
    return sums[slot * sums_stride + int64_t{index} * channels + channel];
  }
  double Average(size_t slot, int32_t channel) const {
    return (Sum(slot, channel, 0) + Sum(slot, channel, 1)) /
           (Sum(slot, channel, 2) + Sum(slot, channel, 3));
  }
  double LogDenominator(size_t slot, int32_t channel) const {
    return std::log(Sum(slot, channel, 2) + Sum(slot, channel, 3)) +
           exponent[slot * stride + channel] + Sum(slot, channel, 4);
  }

  int32_t channels;
  int64_t stride;
  int64_t sums_stride = 0;
  std::vector<int32_t> row_starts = {0};
  std::vector<int32_t> slots;
  std::vector<float> k, v, out, rate, bonus;
  std::vector<float> sums, exponent;
};

bool BitEqual(const std::vector<float>& a, const std::vector<float>& b) {
  return a.size() == b.size() &&
         std::memcmp(a.data(), b.data(), a.size() * sizeof(float)) == 0;
}

void ExpectSameBits(const WkvCase& a, const WkvCase& b) {
  EXPECT_TRUE(BitEqual(a.out, b.out));
  EXPECT_TRUE(BitEqual(a.sums, b.sums));
  EXPECT_TRUE(BitEqual(a.exponent, b.exponent));
}

double RelativeRmse(const std::vector<float>& got,
                    const std::vector<float>& want) {
  double error = 0;
  double square = 0;
  for (size_t i = 0; i < want.size(); ++i) {
    if (want[i] == kMark) continue;
    error += std::pow(double{got[i]} - want[i], 2);
    square += std::pow(double{want[i]}, 2);
  }
  return std::sqrt(error / square);
}

// The same n and d, however exponent and parts share them.
void ExpectSameState(const WkvCase& got, const WkvCase& want) {
  for (size_t slot = 0; slot < want.slots.size(); ++slot) {
    for (int32_t c = 0; c < want.channels; ++c) {
      if (want.Sum(slot, c, 2) == 0) {
        EXPECT_EQ(got.Sum(slot, c, 2), 0);
        EXPECT_EQ(got.exponent[slot * got.stride + c], kWkvEmpty);
        continue;
      }
      const double average = want.Average(slot, c);
      EXPECT_NEAR(
          got.Average(slot, c), average, 3e-6 * (1 + std::fabs(average)));
      EXPECT_NEAR(
          got.LogDenominator(slot, c), want.LogDenominator(slot, c), 3e-6);
    }
  }
}

// Target, channels.
using Param = std::tuple<std::string, int32_t>;

class WkvTest : public testing::TestWithParam<Param> {
 protected:
  void SetUp() override {
    ASSERT_TRUE(ForceKernelTarget(std::get<0>(GetParam())));
  }
  void TearDown() override { ForceKernelTarget(""); }

  static WkvCase Case(const std::vector<int32_t>& row_tokens,
                      float key_scale = 3) {
    return WkvCase(std::get<1>(GetParam()), row_tokens, key_scale);
  }
};

TEST_P(WkvTest, EqualsTheReferenceOverARaggedBatch) {
  for (const float key_scale : {0.1F, 3.0F, 30.0F}) {
    WkvCase got = Case({1, 0, 2, 9, 5, 600}, key_scale);
    got.slots = {4, 2, 0, 5, -1, 1};
    WkvCase want = got;

    got.Run();
    WkvReference(want.Args());

    EXPECT_LE(RelativeRmse(got.out, want.out), 1e-6) << key_scale;
    ExpectSameState(got, want);
  }
}

TEST_P(WkvTest, AHundredThousandTokensStayWithinTheTolerance) {
  WkvCase got = Case({100'000});
  WkvCase want = got;

  got.Run();
  WkvReference(want.Args());

  EXPECT_LE(RelativeRmse(got.out, want.out), 1e-6);
  // The end by itself: what drifts is hidden in the whole.
  const int64_t last = 1000 * got.stride;
  EXPECT_LE(RelativeRmse({got.out.end() - last, got.out.end()},
                         {want.out.end() - last, want.out.end()}),
            1e-6);
  ExpectSameState(got, want);
}

TEST_P(WkvTest, AnyLargeKeyFadesAndIsForgotten) {
  for (const float first : {80.0F, 1e4F, -1e4F}) {
    WkvCase got = Case({3000});
    for (int32_t c = 0; c < got.channels; ++c) got.k[c] = first;
    WkvCase want = got;

    got.Run();
    WkvReference(want.Args());

    EXPECT_LE(RelativeRmse(got.out, want.out), 2e-6) << first;
    ExpectSameState(got, want);
  }
}

TEST_P(WkvTest, EqualKeysDecayAsTheyShould) {
  WkvCase got = Case({100'000});
  std::fill(got.k.begin(), got.k.end(), 2.25F);
  WkvCase want = got;

  got.Run();
  WkvReference(want.Args());

  EXPECT_LE(RelativeRmse(got.out, want.out), 1e-6);
  ExpectSameState(got, want);
}

TEST_P(WkvTest, EqualTokensAverageToTheirValue) {
  WkvCase got = Case({5000});
  std::fill(got.k.begin(), got.k.end(), -3.5F);
  std::fill(got.v.begin(), got.v.end(), 0.75F);

  got.Run();

  for (int64_t t = 0; t < 5000; ++t) {
    for (int32_t c = 0; c < got.channels; ++c) {
      ASSERT_NEAR(got.out[t * got.stride + c], 0.75, 1e-6);
    }
  }
}

TEST_P(WkvTest, AnySplitOfARowGivesTheSameBits) {
  WkvCase whole = Case({20});
  WkvCase split = whole;

  whole.Run();
  int32_t at = 0;
  for (const int32_t count : {1, 2, 0, 1, 9, 7}) {
    split.row_starts = {at, at + count};
    split.Run();
    at += count;
  }

  ASSERT_EQ(at, 20);
  ExpectSameBits(split, whole);
}

TEST_P(WkvTest, ItemsMayBeRunOneByOneInAnyOrderAndOverTheValues) {
  WkvCase together = Case({5, 1, 12});
  WkvCase apart = together;

  together.Run();
  WkvArgs args = apart.Args();
  args.out = apart.v.data();
  for (int64_t item = 3 * WkvBlocks(args.channels); item-- > 0;) {
    Wkv(args, item, item + 1);
  }

  for (int64_t i = 0; i < int64_t{18} * apart.stride; ++i) {
    if (i % apart.stride < apart.channels) apart.out[i] = apart.v[i];
  }
  ExpectSameBits(apart, together);
}

TEST_P(WkvTest, APaddingRowIsNeitherReadNorWritten) {
  WkvCase got = Case({4, 4});
  got.slots = {-1, 0};
  WkvArgs args = got.Args();
  // Were an address formed for slot -1, it would be far outside.
  args.sums_stride = int64_t{1} << 44;
  args.exponent_stride = int64_t{1} << 44;

  Wkv(args, 0, 2 * WkvBlocks(got.channels));

  const auto second = got.out.begin() + 4 * got.stride;
  EXPECT_THAT(std::vector<float>(got.out.begin(), second),
              testing::Each(kMark));
  EXPECT_NE(*second, kMark);
}

TEST_P(WkvTest, ANanStaysInItsChannelAndShows) {
  WkvCase clean = Case({6, 6});
  for (std::vector<float> WkvCase::*marked_part : {&WkvCase::k, &WkvCase::v}) {
    WkvCase marked = Case({6, 6});
    (marked.*marked_part)[2 * marked.stride + 1] = kNan;

    clean = Case({6, 6});
    clean.Run();
    marked.Run();

    for (int32_t t = 0; t < 12; ++t) {
      for (int32_t c = 0; c < marked.channels; ++c) {
        const int64_t at = t * marked.stride + c;
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

std::vector<std::string> Targets() {
  std::vector<std::string> targets;
  for (const std::string_view name : KernelTargets()) {
    targets.emplace_back(name);
  }
  return targets;
}

INSTANTIATE_TEST_SUITE_P(Shapes,
                         WkvTest,
                         testing::Combine(testing::ValuesIn(Targets()),
                                          testing::Values(7, 70)));

}  // namespace
}  // namespace weir::engine
