// SPDX-License-Identifier: Apache-2.0
//
// What the recurrence's decode kernels must do, against the fp64 reference.
#include "engine/kernels/cuda/decode.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <random>
#include <string>
#include <tuple>
#include <vector>

#include "tests/conformance/recurrence_expect.h"
#include "tests/gpu/device_recurrence.h"

namespace weir::gpu {
namespace {

using engine::BitEqual;
using engine::kGapMark;
using engine::kRecurrenceKinds;
using engine::NamedKind;
using engine::RecurrenceCase;
using engine::RecurrenceForm;
using engine::RecurrenceKind;
using engine::RecurrenceShape;
using engine::RelativeRmse;
using engine::StateNumber;

constexpr double kRmseMax = 1e-6;
constexpr float kInfinity = std::numeric_limits<float>::infinity();
constexpr float kNan = std::numeric_limits<float>::quiet_NaN();

constexpr RecurrenceShape kShapes[] = {
    {.heads = 4, .key_heads = 2, .key_dim = 16, .value_dim = 32},
    {.heads = 2, .key_heads = 2, .key_dim = 64, .value_dim = 64},
    {.heads = 64, .key_heads = 32, .key_dim = 64, .value_dim = 512},
    {.heads = 4, .key_heads = 2, .key_dim = 128, .value_dim = 128},
    {.heads = 64, .key_heads = 16, .key_dim = 128, .value_dim = 128},
    {.heads = 2, .key_heads = 1, .key_dim = 256, .value_dim = 512},
    {.heads = 60, .key_heads = 60, .key_dim = 256, .value_dim = 64},
    {.heads = 10, .key_heads = 1, .key_dim = 13, .value_dim = 7},
    {.heads = 3, .key_heads = 3, .key_dim = 200, .value_dim = 129},
};

using Param = std::tuple<NamedKind, RecurrenceShape>;

class DecodeTest : public testing::TestWithParam<Param> {
 protected:
  RecurrenceCase Case(const std::vector<int32_t>& row_tokens) const {
    RecurrenceShape shape = std::get<1>(GetParam());
    shape.kind = std::get<0>(GetParam()).kind;
    return RecurrenceCase(shape, row_tokens, 20240601);
  }

  void ExpectEqualsReference(const RecurrenceCase& start,
                             double rmse_max = kRmseMax) {
    RecurrenceCase got = start;
    RecurrenceCase want = start;
    RunOnDevice(got, {});
    want.Run(RecurrenceForm::kReference);
    engine::ExpectRowsOfReference(start, got, want, rmse_max);
  }
};

TEST_P(DecodeTest, EqualsTheReferenceOverARaggedBatch) {
  RecurrenceCase start = Case({1, 0, 5, 32, 2, 1, 17, 1, 3});
  start.slots = {3, 8, -1, 0, 7, 1, 5, 2, 4};

  ExpectEqualsReference(start);
}

TEST_P(DecodeTest, OneTokenOfEachOfManyRows) {
  std::vector<int32_t> row_tokens(12, 1);
  RecurrenceCase start = Case(row_tokens);
  std::shuffle(start.slots.begin(), start.slots.end(), std::mt19937(5));

  ExpectEqualsReference(start);
}

TEST_P(DecodeTest, EqualKeysAndStrongDecays) {
  for (const float log2_decay : {0.0F, -0.01F, -1.0F, -1000.0F, -kInfinity}) {
    for (const float beta : {0.0F, 1.0F}) {
      SCOPED_TRACE(testing::Message() << log2_decay << " " << beta);
      RecurrenceCase start = Case({33});
      start.RepeatTokens(1);
      start.SetLog2Decay(log2_decay);
      start.SetBeta(beta);

      ExpectEqualsReference(start, 1e-5);
    }
  }
}

TEST_P(DecodeTest, AnySplitGivesTheSameBits) {
  RecurrenceCase whole = Case({20});
  RecurrenceCase split = whole;

  RunOnDevice(whole, {});
  int32_t at = 0;
  for (const int32_t count : {1, 2, 0, 1, 9, 7}) {
    split.row_starts = {at, at + count};
    RunOnDevice(split, {});
    at += count;
  }

  ASSERT_EQ(at, 20);
  EXPECT_TRUE(BitEqual(split.AllOut(), whole.AllOut()));
  EXPECT_TRUE(BitEqual(split.AllStates(), whole.AllStates()));
}

TEST_P(DecodeTest, NeighboursDoNotMatter) {
  RecurrenceCase together = Case({3, 1, 7});
  RecurrenceCase alone = together;

  RunOnDevice(together, {});
  alone.slots = {-1, 1, -1};
  RunOnDevice(alone, {});

  EXPECT_TRUE(BitEqual(alone.RowOut(1), together.RowOut(1)));
  EXPECT_TRUE(BitEqual(alone.SlotState(1), together.SlotState(1)));
}

TEST_P(DecodeTest, SlotsThatNoRowNamesKeepTheirBits) {
  RecurrenceCase work = Case({2, 3, 1});
  work.slots = {2, -1, 0};
  const RecurrenceCase before = work;

  RunOnDevice(work, {});

  EXPECT_TRUE(BitEqual(work.SlotState(1), before.SlotState(1)));
  EXPECT_FALSE(BitEqual(work.SlotState(2), before.SlotState(2)));
}

TEST_P(DecodeTest, AFreshSlotReadsAsZeroWhateverItHolds) {
  RecurrenceCase fresh = Case({4, 0});
  RecurrenceCase zero = fresh;
  std::fill(fresh.state.begin(), fresh.state.end(), kNan);
  std::fill(zero.state.begin(), zero.state.end(), 0.0F);

  RunOnDevice(fresh, {.number = StateNumber::kFloat32, .consumed = {0, 0}});
  RunOnDevice(zero, {.number = StateNumber::kFloat32, .consumed = {7, 1}});

  EXPECT_TRUE(BitEqual(fresh.AllOut(), zero.AllOut()));
  EXPECT_TRUE(BitEqual(fresh.SlotState(0), zero.SlotState(0)));
  // A row of no tokens leaves its slot as it is, fresh or not.
  EXPECT_THAT(fresh.SlotState(1), testing::Each(testing::IsNan()));
}

TEST_P(DecodeTest, ANanStaysInItsRow) {
  RecurrenceCase clean = Case({2, 2});
  RecurrenceCase marked = clean;
  marked.v[0] = kNan;

  RunOnDevice(clean, {});
  RunOnDevice(marked, {});

  EXPECT_TRUE(std::isnan(marked.RowOut(0)[0]));
  EXPECT_TRUE(BitEqual(marked.RowOut(1), clean.RowOut(1)));
  EXPECT_TRUE(BitEqual(marked.SlotState(1), clean.SlotState(1)));
}

// The mean of many roundings is what was rounded; each is one of the two
// beside.
TEST_P(DecodeTest, Bfloat16AtRestIsRoundedByChance) {
  RecurrenceCase start = Case({1});
  for (float& x : start.state) {
    if (x != kGapMark) x = FromBfloat16(ToBfloat16(x));
  }
  RecurrenceCase want = start;
  want.Run(RecurrenceForm::kReference);
  const std::vector<float> exact = want.SlotState(0);
  std::vector<double> sum(exact.size());
  double apart = 0;
  double neighbours = 0;
  constexpr uint32_t kDraws = 64;

  for (uint32_t seed = 0; seed < kDraws; ++seed) {
    RecurrenceCase got = start;
    RunOnDevice(got,
                {.number = StateNumber::kBfloat16,
                 .consumed = {},
                 .rounding_seed = seed});
    EXPECT_LE(RelativeRmse(got.RowOut(0), want.RowOut(0)), 1e-6);
    const std::vector<float> state = got.SlotState(0);
    for (size_t i = 0; i < state.size(); ++i) {
      // A bf16 has 8 bits: neighbours lie 2^-7 apart at most.
      ASSERT_LE(std::fabs(state[i] - exact[i]),
                std::fabs(exact[i]) / 128 + 1e-6);
      sum[i] += state[i];
      apart += std::pow(state[i] - exact[i], 2);
      if (i == 0) continue;
      neighbours += (state[i] - exact[i]) * (state[i - 1] - exact[i - 1]);
    }
  }

  // Neighbours' roundings do not depend on each other.
  EXPECT_LE(std::fabs(neighbours / apart), 0.1);
  double error = 0;
  double size = 0;
  for (size_t i = 0; i < sum.size(); ++i) {
    error += std::pow(sum[i] / kDraws - exact[i], 2);
    size += std::pow(exact[i], 2);
  }
  // One rounding is about 1.6e-3 off; the mean of 64 is off by an eighth.
  EXPECT_LE(std::sqrt(error / size), 4e-4);
}

INSTANTIATE_TEST_SUITE_P(Kinds,
                         DecodeTest,
                         testing::Combine(testing::ValuesIn(kRecurrenceKinds),
                                          testing::ValuesIn(kShapes)),
                         [](const testing::TestParamInfo<Param>& param) {
                           const RecurrenceShape& shape =
                               std::get<1>(param.param);
                           return std::string(std::get<0>(param.param).name) +
                                  "_" + std::to_string(shape.heads) + "_" +
                                  std::to_string(shape.key_dim) + "x" +
                                  std::to_string(shape.value_dim);
                         });

TEST(DecodeRefusalTest, WhatNoKernelTakesIsRefused) {
  RecurrenceCase work({.key_dim = 300, .kind = RecurrenceKind::kDelta}, {1}, 1);
  engine::DecodeArgs args;
  args.step = work.Args();
  args.state = work.state.data();
  EXPECT_EQ(engine::RecurrenceDecode(args, nullptr), cudaErrorInvalidValue);
  args.step.state = nullptr;
  EXPECT_EQ(engine::RecurrenceDecode(args, nullptr), cudaErrorInvalidValue);
}

}  // namespace
}  // namespace weir::gpu
