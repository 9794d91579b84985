// SPDX-License-Identifier: Apache-2.0
//
// What the short convolution must do, on every target of the machine.
#include "engine/kernels/short_conv.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

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

struct ConvCase {
  ConvCase(int32_t channels_in,
           int32_t width_in,
           bool has_bias_in,
           const std::vector<int32_t>& row_tokens)
      : channels(channels_in), width(width_in), has_bias(has_bias_in) {
    for (const int32_t count : row_tokens) {
      slots.push_back(static_cast<int32_t>(slots.size()));
      row_starts.push_back(row_starts.back() + count);
    }
    stride = channels + kGap;
    state_stride = int64_t{width - 1} * channels + kGap;
    out.assign(row_starts.back() * stride, kMark);
    std::mt19937 random(20240603);
    std::normal_distribution<float> normal;
    x.resize(out.size());
    weight.resize(int64_t{width} * channels);
    bias.resize(channels);
    state.resize(slots.size() * state_stride);
    for (std::vector<float>* values : {&x, &weight, &bias, &state}) {
      for (float& value : *values) value = normal(random);
    }
  }

  ShortConvArgs Args() {
    ShortConvArgs args;
    args.rows = static_cast<int32_t>(slots.size());
    args.channels = channels;
    args.width = width;
    args.plain = plain;
    args.row_starts = row_starts.data();
    args.slots = slots.data();
    args.x = {x.data(), stride};
    args.weight = weight.data();
    if (has_bias) args.bias = bias.data();
    args.out = out.data();
    args.out_stride = stride;
    args.state = state.data();
    args.state_stride = state_stride;
    return args;
  }
  int64_t items() const {
    return static_cast<int64_t>(slots.size()) * ChannelBlocks(channels);
  }
  void Run() { ShortConv(Args(), 0, items()); }

  int32_t channels;
  int32_t width;
  int32_t plain = 0;
  bool has_bias;
  std::vector<int32_t> row_starts = {0};
  std::vector<int32_t> slots;
  int64_t stride;
  int64_t state_stride;
  std::vector<float> x, weight, bias, out, state;
};

bool BitEqual(const std::vector<float>& a, const std::vector<float>& b) {
  return a.size() == b.size() &&
         std::memcmp(a.data(), b.data(), a.size() * sizeof(float)) == 0;
}

// Target, channels, width, bias.
using Param = std::tuple<std::string, int32_t, int32_t, bool>;

class ShortConvTest : public testing::TestWithParam<Param> {
 protected:
  void SetUp() override {
    ASSERT_TRUE(ForceKernelTarget(std::get<0>(GetParam())));
  }
  void TearDown() override { ForceKernelTarget(""); }

  ConvCase Case(const std::vector<int32_t>& row_tokens) const {
    return ConvCase(std::get<1>(GetParam()),
                    std::get<2>(GetParam()),
                    std::get<3>(GetParam()),
                    row_tokens);
  }
};

TEST_P(ShortConvTest, EqualsTheReferenceOverARaggedBatch) {
  ConvCase got = Case({1, 0, 2, 3, 9, 40});
  got.slots = {4, 2, 0, 5, -1, 1};
  ConvCase want = got;

  got.Run();
  ShortConvReference(want.Args());

  for (size_t i = 0; i < want.out.size(); ++i) {
    ASSERT_NEAR(got.out[i], want.out[i], 2e-6 * (1 + std::fabs(want.out[i])));
  }
  EXPECT_TRUE(BitEqual(got.state, want.state));
}

TEST_P(ShortConvTest, TheFirstChannelsMayGoWithoutSilu) {
  for (const int32_t plain : {1, 5, 6, std::get<1>(GetParam())}) {
    ConvCase got = Case({7, 2});
    got.plain = plain;
    ConvCase want = got;
    ConvCase silu = Case({7, 2});

    got.Run();
    ShortConvReference(want.Args());
    silu.Run();

    for (size_t i = 0; i < want.out.size(); ++i) {
      ASSERT_NEAR(got.out[i], want.out[i], 2e-6 * (1 + std::fabs(want.out[i])));
      const auto channel = static_cast<int32_t>(i % got.stride);
      if (channel < got.channels) {
        EXPECT_EQ(channel >= plain, got.out[i] == silu.out[i]);
      }
    }
    EXPECT_TRUE(BitEqual(got.state, silu.state));
  }
}

TEST_P(ShortConvTest, AnySplitOfARowGivesTheSameBits) {
  ConvCase whole = Case({20});
  ConvCase split = whole;

  whole.Run();
  int32_t at = 0;
  for (const int32_t count : {1, 2, 0, 1, 9, 7}) {
    split.row_starts = {at, at + count};
    split.Run();
    at += count;
  }

  ASSERT_EQ(at, 20);
  EXPECT_TRUE(BitEqual(split.out, whole.out));
  EXPECT_TRUE(BitEqual(split.state, whole.state));
}

TEST_P(ShortConvTest, WorkItemsMayBeCutAnywhere) {
  ConvCase together = Case({5, 1, 12});
  const ConvCase apart = together;

  together.Run();
  for (const int64_t width : {1, 3, 5}) {
    ConvCase cut = apart;
    for (int64_t end = cut.items(); end > 0; end -= width) {
      ShortConv(cut.Args(), std::max<int64_t>(0, end - width), end);
    }
    EXPECT_TRUE(BitEqual(cut.out, together.out));
    EXPECT_TRUE(BitEqual(cut.state, together.state));
  }
}

TEST_P(ShortConvTest, APaddingRowIsNeitherReadNorWritten) {
  ConvCase got = Case({4, 4});
  got.slots = {-1, 0};
  ShortConvArgs args = got.Args();
  // Were an address formed for slot -1, it would be far outside.
  args.state_stride = int64_t{1} << 44;

  ShortConv(args, 0, got.items());

  const auto second = got.out.begin() + 4 * got.stride;
  EXPECT_THAT(std::vector<float>(got.out.begin(), second),
              testing::Each(kMark));
  EXPECT_NE(*second, kMark);
}

TEST_P(ShortConvTest, ANanStaysInItsOwnChannelAndRow) {
  ConvCase clean = Case({6, 6});
  ConvCase marked = clean;
  marked.x[2 * marked.stride + 1] = kNan;

  clean.Run();
  marked.Run();

  const int32_t reach = std::min(6, 2 + marked.width);
  for (int32_t t = 0; t < 12; ++t) {
    for (int32_t c = 0; c < marked.channels; ++c) {
      const int64_t at = t * marked.stride + c;
      if (c == 1 && t >= 2 && t < reach) {
        EXPECT_TRUE(std::isnan(marked.out[at]));
      } else {
        EXPECT_EQ(marked.out[at], clean.out[at]);
      }
    }
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
                         ShortConvTest,
                         testing::Combine(testing::ValuesIn(Targets()),
                                          testing::Values(64, 7, 37, 200),
                                          testing::Values(2, 4, 5, 8),
                                          testing::Bool()));

}  // namespace
}  // namespace weir::engine
