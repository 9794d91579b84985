// SPDX-License-Identifier: Apache-2.0
//
// What the Performer's features must do, on every target.
#include "engine/kernels/favor.h"

#include <gtest/gtest.h>

#include <cmath>
#include <random>
#include <string>
#include <utility>
#include <vector>

#include "engine/kernels/kernel_target.h"

namespace weir::engine {
namespace {

constexpr int32_t kHeads = 3;

std::vector<float> Draw(size_t count, float scale) {
  std::mt19937 random(20261124);
  std::normal_distribution<float> normal;
  std::vector<float> x(count);
  for (float& value : x) value = scale * normal(random);
  return x;
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

struct KeyCase {
  KeyCase(int32_t features_in, float scale, std::vector<int32_t> row_starts_in)
      : features(features_in), row_starts(std::move(row_starts_in)) {
    for (size_t i = 1; i < row_starts.size(); ++i) {
      slots.push_back(static_cast<int32_t>(i) - 1);
    }
    const auto items = static_cast<size_t>(row_starts.back()) * kHeads;
    u = Draw(items * static_cast<size_t>(features), scale);
    half = Draw(items, 1);
    for (float& value : half) value = std::abs(value);
    log2_decay.assign(items, 7);
    state.assign(slots.size() * kHeads, kFavorEmpty);
  }
  FavorKeyArgs Args() {
    return {.rows = static_cast<int32_t>(slots.size()),
            .heads = kHeads,
            .features = features,
            .row_starts = row_starts.data(),
            .slots = slots.data(),
            .u = u.data(),
            .half = half.data(),
            .log2_decay = log2_decay.data(),
            .state = state.data(),
            .state_stride = kHeads};
  }

  int32_t features;
  std::vector<int32_t> row_starts;
  std::vector<int32_t> slots;
  std::vector<float> u, half, log2_decay, state;
};

class FavorTest : public testing::TestWithParam<std::string_view> {
 protected:
  void SetUp() override { ASSERT_TRUE(ForceKernelTarget(GetParam())); }
  void TearDown() override { ForceKernelTarget(""); }
};

TEST_P(FavorTest, QueriesAreTheirDefinition) {
  for (const int32_t features : {1, 6, 16, 30, 266}) {
    for (const float scale : {0.5F, 5.0F, 200.0F}) {
      SCOPED_TRACE(testing::Message() << features << " of " << scale);
      auto u = Draw(size_t{4} * kHeads * static_cast<size_t>(features), scale);
      const auto half = Draw(4 * kHeads, 0.5F);
      auto want = u;
      std::vector<float> sums(4 * kHeads), want_sums(4 * kHeads);
      FavorQueryArgs args = {.heads = kHeads,
                             .features = features,
                             .u = u.data(),
                             .half = half.data(),
                             .eps = 1e-4F,
                             .sums = sums.data()};

      FavorQueries(args, 0, 1);
      FavorQueries(args, 1, 4);

      args.u = want.data();
      args.sums = want_sums.data();
      FavorQueriesReference(args, 0, 4);
      EXPECT_LE(RelativeRmse(u, want), 1e-6);
      EXPECT_LE(RelativeRmse(sums, want_sums), 1e-6);
    }
  }
}

TEST_P(FavorTest, KeysAreTheirDefinition) {
  for (const int32_t features : {1, 6, 16, 30, 266}) {
    for (const float scale : {0.5F, 5.0F, 200.0F}) {
      SCOPED_TRACE(testing::Message() << features << " of " << scale);
      KeyCase got(features, scale, {0, 1, 1, 30});
      KeyCase want = got;

      FavorKeys(got.Args(), 0, 4);
      FavorKeys(got.Args(), 4, int64_t{3} * kHeads);

      FavorKeysReference(want.Args());
      EXPECT_LE(RelativeRmse(got.u, want.u), 1e-6);
      EXPECT_EQ(got.state, want.state);
      for (size_t i = 0; i < want.log2_decay.size(); ++i) {
        ASSERT_LE(got.log2_decay[i], 0);
        ASSERT_NEAR(got.log2_decay[i],
                    want.log2_decay[i],
                    1e-6 * std::abs(want.log2_decay[i]));
      }
    }
  }
}

// A key never lies above the maximum, and a key that is the greatest so far
// decays what was before it.
TEST_P(FavorTest, NoKeyLiesAboveTheMaximum) {
  KeyCase rows(30, 200, {0, 100});
  FavorKeys(rows.Args(), 0, kHeads);
  for (const float e : rows.u) {
    ASSERT_GE(e, 0);
    ASSERT_LE(e, 1);
  }
  // The first meets an empty state, of which nothing is kept.
  for (int32_t h = 0; h < kHeads; ++h) EXPECT_LT(rows.log2_decay[h], -1e29F);
}

TEST_P(FavorTest, PaddingIsLeftAlone) {
  KeyCase rows(20, 1, {0, 2, 4});
  rows.slots[0] = -1;
  const auto before = rows.u;

  FavorKeys(rows.Args(), 0, 2 * kHeads);

  for (size_t i = 0; i < size_t{2} * kHeads * 20; ++i) {
    ASSERT_EQ(rows.u[i], before[i]);
  }
  EXPECT_EQ(rows.log2_decay[0], 7);
  EXPECT_EQ(rows.state[0], kFavorEmpty);
  EXPECT_NE(rows.state[kHeads], kFavorEmpty);
}

TEST_P(FavorTest, ReadsTheQuotient) {
  constexpr int32_t kValues = 21;
  const size_t items = 2 * kHeads;
  auto x = Draw(items * kValues, 1);
  const auto values = Draw(items * kValues, 3);
  const std::vector<float> sums(items, 4), dots(items, 2);
  const std::vector<float> count = {10, 20};
  const auto before = x;

  FavorRead({.heads = kHeads,
             .value_dim = kValues,
             .x = x.data(),
             .sums = sums.data(),
             .dots = dots.data(),
             .values = values.data(),
             .count = count.data(),
             .eps = 0.25F},
            0,
            2);

  for (size_t i = 0; i < x.size(); ++i) {
    const double n = i / (kHeads * kValues) == 0 ? 10 : 20;
    const double want = (before[i] + 0.25 * 4 * values[i]) / (2 + 0.25 * 4 * n);
    ASSERT_NEAR(x[i], want, 1e-6);
  }
}

INSTANTIATE_TEST_SUITE_P(Targets,
                         FavorTest,
                         testing::ValuesIn(KernelTargets()),
                         [](const auto& info) {
                           return std::string(info.param);
                         });

}  // namespace
}  // namespace weir::engine
