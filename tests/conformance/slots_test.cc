// SPDX-License-Identifier: Apache-2.0
//
// What the gates and the softmax of slots must do, on every target.
#include "engine/kernels/slots.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <random>
#include <string>
#include <vector>

#include "engine/kernels/kernel_target.h"

namespace weir::engine {
namespace {

constexpr float kInfinity = std::numeric_limits<float>::infinity();
constexpr float kMark = -7.5e30F;

std::vector<float> Draw(size_t count, float scale) {
  std::mt19937 random(20261124);
  std::normal_distribution<float> normal;
  std::vector<float> x(count);
  for (float& value : x) value = scale * normal(random);
  return x;
}

class SlotsTest : public testing::TestWithParam<std::string_view> {
 protected:
  void SetUp() override { ASSERT_TRUE(ForceKernelTarget(GetParam())); }
  void TearDown() override { ForceKernelTarget(""); }
};

TEST_P(SlotsTest, GatesAreTheirDefinition) {
  for (const int32_t width : {1, 5, 16, 33, 128}) {
    for (const float scale : {0.1F, 1.0F, 20.0F}) {
      SCOPED_TRACE(testing::Message() << width << " of " << scale);
      const int64_t stride = width + 3;
      auto f = Draw(7 * static_cast<size_t>(stride), scale);
      f[0] = kInfinity;
      f[static_cast<size_t>(stride)] = -kInfinity;
      const size_t count = 7 * static_cast<size_t>(width);
      std::vector<float> decay(count + 1, kMark), write(count + 1, kMark);
      std::vector<float> want_decay = decay, want_write = write;
      SlotGateArgs args = {.width = width,
                           .f = {f.data(), stride},
                           .scale = 0.125F,
                           .log2_decay = decay.data(),
                           .write = write.data()};

      SlotGates(args, 0, 3);
      SlotGates(args, 3, 7);

      args.log2_decay = want_decay.data();
      args.write = want_write.data();
      SlotGatesReference(args, 0, 7);
      EXPECT_EQ(write.back(), kMark);
      EXPECT_EQ(decay[0], 0);
      EXPECT_EQ(write[0], 0);
      for (size_t i = 0; i < count; ++i) {
        if (std::isinf(want_decay[i])) {
          EXPECT_LE(decay[i], -1e4F);
          EXPECT_EQ(write[i], 1);
          continue;
        }
        ASSERT_NEAR(decay[i], want_decay[i], 1e-6 * std::abs(want_decay[i]));
        // Relative: a slot that is hardly written to still is, to its last
        // bits.
        ASSERT_NEAR(write[i], want_write[i], 1e-6 * want_write[i]) << i;
      }
    }
  }
}

TEST_P(SlotsTest, WeightsAreTheirDefinition) {
  for (const int32_t slots : {1, 3, 15, 16, 17, 31, 64, 200}) {
    for (const float scale : {1.0F, 30.0F, 1e4F}) {
      SCOPED_TRACE(testing::Message() << slots << " of " << scale);
      auto x = Draw(size_t{10} * static_cast<size_t>(slots), scale);
      // Scores that all lie far below zero.
      for (int32_t i = 0; i < slots; ++i) x[static_cast<size_t>(i)] -= 1e5F;
      auto want = x;

      SlotSoftmax({.heads = 2, .slots = slots, .x = x.data()}, 0, 5);

      SlotSoftmaxReference(
          {.heads = 2, .slots = slots, .x = want.data()}, 0, 5);
      for (size_t i = 0; i < x.size(); ++i) ASSERT_NEAR(x[i], want[i], 1e-6);
    }
  }
}

TEST_P(SlotsTest, ScoresThatAreNotFiniteMakeTheirHeadNaN) {
  for (const float bad : {std::nanf(""), kInfinity}) {
    for (const size_t at : {0, 17, 19}) {
      auto x = Draw(60, 1);
      x[20 + at] = bad;

      SlotSoftmax({.heads = 3, .slots = 20, .x = x.data()}, 0, 1);

      for (size_t i = 0; i < x.size(); ++i) {
        EXPECT_EQ(std::isnan(x[i]), i / 20 == 1) << i;
      }
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Targets,
                         SlotsTest,
                         testing::ValuesIn(KernelTargets()),
                         [](const auto& info) {
                           return std::string(info.param);
                         });

}  // namespace
}  // namespace weir::engine
