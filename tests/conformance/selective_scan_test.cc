// SPDX-License-Identifier: Apache-2.0
//
// What Mamba-1's scan must do, on every target of the machine.
#include "engine/kernels/selective_scan.h"

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
constexpr int32_t kSlots = 8;
// Relative root mean squares against the fp64 definition.
constexpr double kTolerance = 1e-6;
constexpr double kLongTolerance = 1e-5;

struct ScanCase {
  ScanCase(int32_t channels_in,
           int32_t states_in,
           const std::vector<int32_t>& row_tokens)
      : channels(channels_in), states(states_in) {
    for (const int32_t count : row_tokens) {
      slots.push_back(static_cast<int32_t>(slots.size()));
      row_starts.push_back(row_starts.back() + count);
    }
    const int64_t tokens = row_starts.back();
    stride = channels + kGap;
    state_stride = int64_t{states} * channels + kGap;
    std::mt19937 random(20240603);
    std::normal_distribution<float> normal;
    const auto fill = [&](std::vector<float>& values, int64_t size) {
      values.resize(size);
      for (float& value : values) value = normal(random);
    };
    out.assign(tokens * stride, kMark);
    fill(dt, tokens * stride);
    fill(x, tokens * stride);
    fill(z, tokens * stride);
    fill(bc, tokens * 2 * states);
    fill(dt_bias, channels);
    fill(d, channels);
    fill(state, kSlots * state_stride);
    fill(rate, int64_t{states} * channels);
    for (float& value : dt_bias) value -= 2;
    // Decays from next to one to next to nothing.
    for (float& value : rate) value = -std::exp(2 * value);
  }

  SelectiveScanArgs Args() {
    SelectiveScanArgs args;
    args.rows = static_cast<int32_t>(slots.size());
    args.channels = channels;
    args.states = states;
    args.row_starts = row_starts.data();
    args.slots = slots.data();
    args.dt = {dt.data(), stride};
    args.x = {x.data(), stride};
    args.b = {bc.data(), int64_t{2} * states};
    args.c = {bc.data() + states, int64_t{2} * states};
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
  int64_t items() const { return slots.size() * ScanBlocks(channels); }
  void Run() { SelectiveScan(Args(), 0, items()); }

  int32_t channels;
  int32_t states;
  bool gated = true;
  std::vector<int32_t> row_starts = {0};
  std::vector<int32_t> slots;
  int64_t stride;
  int64_t state_stride;
  std::vector<float> dt, x, z, bc, dt_bias, d, rate, out, state;
};

bool BitEqual(const std::vector<float>& a, const std::vector<float>& b) {
  return a.size() == b.size() &&
         std::memcmp(a.data(), b.data(), a.size() * sizeof(float)) == 0;
}

// Marks and what was not written are equal on both sides and do not count.
double RelativeError(const std::vector<float>& got,
                     const std::vector<float>& want) {
  double error = 0;
  double size = 0;
  for (size_t i = 0; i < want.size(); ++i) {
    if (want[i] == kMark && got[i] == kMark) continue;
    const double difference = double{got[i]} - want[i];
    error += difference * difference;
    size += double{want[i]} * want[i];
  }
  return std::sqrt(error / size);
}

void ExpectNearReference(const ScanCase& start, double tolerance) {
  ScanCase got = start;
  ScanCase want = start;

  got.Run();
  SelectiveScanReference(want.Args());

  EXPECT_LE(RelativeError(got.out, want.out), tolerance);
  EXPECT_LE(RelativeError(got.state, want.state), tolerance);
}

// Target, channels, states.
using Param = std::tuple<std::string, int32_t, int32_t>;

class SelectiveScanTest : public testing::TestWithParam<Param> {
 protected:
  void SetUp() override {
    ASSERT_TRUE(ForceKernelTarget(std::get<0>(GetParam())));
  }
  void TearDown() override { ForceKernelTarget(""); }

  ScanCase Case(const std::vector<int32_t>& row_tokens) const {
    return {std::get<1>(GetParam()), std::get<2>(GetParam()), row_tokens};
  }
};

TEST_P(SelectiveScanTest, EqualsTheReferenceOverARaggedBatch) {
  ScanCase start = Case({1, 0, 2, 3, 9, 40});
  start.slots = {4, 2, 0, 5, -1, 1};

  ExpectNearReference(start, kTolerance);
  start.gated = false;
  ExpectNearReference(start, kTolerance);
}

TEST_P(SelectiveScanTest, EqualsTheReferenceAtEveryLength) {
  for (int32_t tokens = 1; tokens <= 130; ++tokens) {
    ScanCase start = Case({tokens});
    ExpectNearReference(start, kTolerance);
  }
}

TEST_P(SelectiveScanTest, OutMayBeTheTimeStepsOrTheInputs) {
  const ScanCase start = Case({5, 12});
  ScanCase apart = start;
  ScanCase over_dt = start;
  ScanCase over_x = start;
  SelectiveScanArgs dt_args = over_dt.Args();
  dt_args.out = over_dt.dt.data();
  SelectiveScanArgs x_args = over_x.Args();
  x_args.out = over_x.x.data();

  apart.Run();
  SelectiveScan(dt_args, 0, start.items());
  SelectiveScan(x_args, 0, start.items());

  for (int32_t t = 0; t < 17; ++t) {
    for (int32_t c = 0; c < start.channels; ++c) {
      const int64_t at = t * start.stride + c;
      ASSERT_EQ(over_dt.dt[at], apart.out[at]);
      ASSERT_EQ(over_x.x[at], apart.out[at]);
    }
  }
  EXPECT_TRUE(BitEqual(over_dt.state, apart.state));
  EXPECT_TRUE(BitEqual(over_x.state, apart.state));
}

TEST_P(SelectiveScanTest, AnySplitOfARowGivesTheSameBits) {
  ScanCase whole = Case({20});
  ScanCase split = whole;

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

TEST_P(SelectiveScanTest, ItemsMayBeRunOneByOneInAnyOrder) {
  ScanCase together = Case({5, 1, 12});
  ScanCase apart = together;

  together.Run();
  for (int64_t item = apart.items() - 1; item >= 0; --item) {
    SelectiveScan(apart.Args(), item, item + 1);
  }

  EXPECT_TRUE(BitEqual(apart.out, together.out));
  EXPECT_TRUE(BitEqual(apart.state, together.state));
}

TEST_P(SelectiveScanTest, APaddingRowIsNeitherReadNorWritten) {
  ScanCase got = Case({4, 4});
  got.slots = {-1, 0};
  SelectiveScanArgs args = got.Args();
  // Were an address formed for slot -1, it would be far outside.
  args.state_stride = int64_t{1} << 44;

  SelectiveScan(args, 0, got.items());

  const auto second = got.out.begin() + 4 * got.stride;
  EXPECT_THAT(std::vector<float>(got.out.begin(), second),
              testing::Each(kMark));
  EXPECT_NE(*second, kMark);
}

TEST_P(SelectiveScanTest, ANanStaysInItsOwnChannelAndRow) {
  ScanCase clean = Case({6, 6});
  ScanCase marked = clean;
  marked.x[2 * marked.stride + 1] = kNan;

  clean.Run();
  marked.Run();

  for (int32_t t = 0; t < 12; ++t) {
    for (int32_t c = 0; c < marked.channels; ++c) {
      const int64_t at = t * marked.stride + c;
      if (c == 1 && t >= 2 && t < 6) {
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
                         SelectiveScanTest,
                         testing::Combine(testing::ValuesIn(Targets()),
                                          testing::Values(64, 7, 150),
                                          testing::Values(8, 16, 5, 33)));

// Time steps so small that nearly all of the state is kept, for so long that
// what is lost at each would show.
class SelectiveScanLongTest : public testing::TestWithParam<std::string> {
 protected:
  void SetUp() override { ASSERT_TRUE(ForceKernelTarget(GetParam())); }
  void TearDown() override { ForceKernelTarget(""); }
};

TEST_P(SelectiveScanLongTest, DecaysNextToOneLoseNothing) {
  for (const float bias : {-18.0F, -12.0F, -6.0F, 0.0F, 6.0F}) {
    ScanCase start(9, 16, {100'000});
    for (float& value : start.dt_bias) value = bias;
    // What a token writes is as small as its time step: only a session that
    // began at zero has a state that an fp32 sum of such steps can follow.
    for (float& value : start.state) value = 0;
    ExpectNearReference(start, kLongTolerance);
  }
}

INSTANTIATE_TEST_SUITE_P(Targets,
                         SelectiveScanLongTest,
                         testing::ValuesIn(Targets()));

}  // namespace
}  // namespace weir::engine
