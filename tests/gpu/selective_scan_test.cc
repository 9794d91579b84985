// SPDX-License-Identifier: Apache-2.0
//
// What Mamba-1's scan on a GPU must do, against the fp64 reference.
#include "engine/kernels/cuda/selective_scan.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <string>
#include <vector>

#include "tests/conformance/recurrence_expect.h"
#include "tests/gpu/device_recurrence.h"
#include "tests/gpu/selective_scan_case.h"

namespace weir::gpu {
namespace {

using engine::BitEqual;
using engine::kScanSegment;
using engine::kScanStatesMax;
using engine::RelativeRmse;
using engine::StateNumber;

// A slow decay multiplies as many exponentials as the row has tokens.
constexpr double kRmseMax = 1e-6;
constexpr double kLongRmseMax = 1e-5;
constexpr float kNan = std::numeric_limits<float>::quiet_NaN();

struct ScanShape {
  int32_t channels;
  int32_t states;
};

constexpr ScanShape kShapes[] = {
    {64, 16},
    {200, 16},
    {20, 16},
    {128, 8},
    {70, 5},
    {9, 1},
    {40, 12},
    {33, 17},
    {65, 40},
    {34, kScanStatesMax},
};

class SelectiveScanTest : public testing::TestWithParam<ScanShape> {
 protected:
  static ScanCase Case(const std::vector<int32_t>& row_tokens) {
    return {GetParam().channels, GetParam().states, row_tokens};
  }

  static void ExpectNearReference(const ScanCase& start,
                                  double rmse_max = kRmseMax) {
    ScanCase got = start;
    ScanCase want = start;
    got.RunOnDevice();
    want.RunReference();
    // Of all rows: one row's few numbers may cancel to nothing.
    std::vector<float> outputs[2];
    std::vector<float> states[2];
    const auto add = [](std::vector<float>& to, const std::vector<float>& x) {
      to.insert(to.end(), x.begin(), x.end());
    };
    for (int32_t row = 0; row < start.rows(); ++row) {
      const int32_t slot = start.slots[row];
      if (slot < 0) {
        EXPECT_THAT(got.RowOut(row), testing::Each(kScanMark));
        continue;
      }
      add(outputs[0], got.RowOut(row));
      add(outputs[1], want.RowOut(row));
      if (got.RowOut(row).empty()) continue;
      add(states[0], got.SlotState(slot));
      add(states[1], want.SlotState(slot));
    }
    EXPECT_LE(RelativeRmse(outputs[0], outputs[1]), rmse_max);
    EXPECT_LE(RelativeRmse(states[0], states[1]), rmse_max);
    ExpectNothingElseWritten(start, got);
  }

  // Row 0 in calls of so many tokens each, behind a row of padding. Row 1 of
  // what comes of it has all outputs.
  static ScanCase RunInPieces(ScanCase work,
                              const std::vector<int32_t>& counts) {
    const int32_t tokens = work.row_starts[1];
    work.slots = {-1, 0};
    work.consumed = {1, 1};
    int32_t at = 0;
    for (const int32_t count : counts) {
      work.row_starts = {0, at, at + count};
      work.RunOnDevice();
      at += count;
    }
    EXPECT_EQ(at, tokens);
    work.row_starts = {0, 0, tokens};
    return work;
  }

  // Gaps, and slots that no row with tokens names.
  static void ExpectNothingElseWritten(const ScanCase& start,
                                       const ScanCase& got) {
    for (size_t i = 0; i < got.out.size(); ++i) {
      if (static_cast<int64_t>(i) % got.stride < got.channels) continue;
      ASSERT_EQ(got.out[i], kScanMark);
    }
    ScanCase put_back = got;
    for (int32_t row = 0; row < start.rows(); ++row) {
      if (start.slots[row] < 0 ||
          start.row_starts[row] == start.row_starts[row + 1]) {
        continue;
      }
      const auto first = start.slots[row] * start.state_stride;
      std::copy_n(start.state.begin() + first,
                  int64_t{start.states} * start.channels,
                  put_back.state.begin() + first);
    }
    EXPECT_TRUE(BitEqual(put_back.state, start.state));
  }
};

INSTANTIATE_TEST_SUITE_P(Shapes,
                         SelectiveScanTest,
                         testing::ValuesIn(kShapes),
                         [](const auto& info) {
                           return std::to_string(info.param.channels) + "_" +
                                  std::to_string(info.param.states);
                         });

TEST_P(SelectiveScanTest, EqualsTheReferenceOverARaggedBatch) {
  ScanCase start = Case({1, 0, 2, 3, 9, 40, 1});
  start.slots = {4, 2, 0, 5, -1, 1, 8};

  ExpectNearReference(start);
  start.gated = false;
  ExpectNearReference(start);
}

TEST_P(SelectiveScanTest, EqualsTheReferenceAtEveryLength) {
  for (int32_t tokens = 1; tokens <= 70; ++tokens) {
    SCOPED_TRACE(tokens);
    ExpectNearReference(Case({tokens}));
  }
}

TEST_P(SelectiveScanTest, EqualsTheReferenceOverRowsOfManySegments) {
  for (const int32_t tokens : {127, 128, 129, 192, 193, 700}) {
    SCOPED_TRACE(tokens);
    ExpectNearReference(Case({tokens}), kLongRmseMax);
  }
  ScanCase start = Case({1, 65, 0, 64, 3, 200, 130, 1, 66, 0});
  start.slots = {10, 1, 2, 8, 4, 3, -1, 7, 6, 0};
  start.consumed = {0, 0, 0, 0, 1, 2, 3, 4, 5, 6};
  ExpectNearReference(start, kLongRmseMax);
}

TEST_P(SelectiveScanTest, OneTokenOfEachOfManyRows) {
  ScanCase start = Case(std::vector<int32_t>(40, 1));
  for (int32_t row = 0; row < 40; ++row) {
    start.slots[row] = row % 7 == 3 ? -1 : (row * 11 + 5) % 40;
  }
  ExpectNearReference(start);
}

TEST_P(SelectiveScanTest, DecaysOfAnyStrength) {
  for (const float rate : {-1e-6F, -0.01F, -1.0F, -1000.0F, -1e30F}) {
    SCOPED_TRACE(rate);
    ScanCase start = Case({5, 150});
    std::fill(start.rate.begin(), start.rate.end(), rate);
    ExpectNearReference(start, kLongRmseMax);
  }
}

TEST_P(SelectiveScanTest, TimeStepsOfAnySize) {
  for (const float bias : {-40.0F, -10.0F, 0.0F, 30.0F, 200.0F}) {
    SCOPED_TRACE(bias);
    ScanCase start = Case({5, 150});
    std::fill(start.dt_bias.begin(), start.dt_bias.end(), bias);
    ExpectNearReference(start, kLongRmseMax);
  }
}

TEST_P(SelectiveScanTest, AnySplitGivesTheSame) {
  ScanCase whole = Case({300});
  const ScanCase split = RunInPieces(whole, {1, 2, 0, 1, 70, 9, 64, 65, 88});

  whole.RunOnDevice();

  EXPECT_LE(RelativeRmse(split.state, whole.state), kLongRmseMax);
  EXPECT_LE(RelativeRmse(split.RowOut(1), whole.RowOut(0)), kLongRmseMax);
}

// Where no cut makes or moves a segment, to the bit.
TEST_P(SelectiveScanTest, AnySplitOfAShortRowGivesTheSameBits) {
  ScanCase whole = Case({20});
  const ScanCase split = RunInPieces(whole, {1, 2, 0, 1, 9, 7});

  whole.RunOnDevice();

  EXPECT_TRUE(BitEqual(split.out, whole.out));
  EXPECT_TRUE(BitEqual(split.state, whole.state));
}

TEST_P(SelectiveScanTest, NeighboursDoNotMatter) {
  // With a long neighbour short rows go among segments.
  ScanCase together = Case({3, 64, 200, 1, 130});
  together.RunOnDevice();
  for (int32_t row = 0; row < together.rows(); ++row) {
    SCOPED_TRACE(row);
    ScanCase alone = Case({3, 64, 200, 1, 130});
    const int32_t first = alone.row_starts[row];
    const int32_t last = alone.row_starts[row + 1];
    alone.row_starts = {0, last - first};
    alone.slots = {row};
    alone.consumed = {9};
    const auto cut = [&](std::vector<float>& values, int64_t stride) {
      values = {values.begin() + first * stride,
                values.begin() + last * stride};
    };
    for (auto* values : {&alone.dt, &alone.x, &alone.z, &alone.out}) {
      cut(*values, alone.stride);
    }
    cut(alone.bc, alone.selected_stride);
    alone.RunOnDevice();
    EXPECT_TRUE(BitEqual(alone.RowOut(0), together.RowOut(row)));
    EXPECT_TRUE(BitEqual(alone.SlotState(row), together.SlotState(row)));
  }
}

TEST_P(SelectiveScanTest, AFreshSlotReadsAsZeroWhateverItHolds) {
  ScanCase fresh = Case({4, 0, 150});
  ScanCase zero = fresh;
  std::fill(fresh.state.begin(), fresh.state.end(), kNan);
  std::fill(zero.state.begin(), zero.state.end(), 0.0F);
  fresh.consumed = {0, 0, 0};

  fresh.RunOnDevice();
  zero.RunOnDevice();

  EXPECT_TRUE(BitEqual(fresh.out, zero.out));
  EXPECT_TRUE(BitEqual(fresh.SlotState(0), zero.SlotState(0)));
  EXPECT_TRUE(BitEqual(fresh.SlotState(2), zero.SlotState(2)));
  // A row of no tokens leaves its slot as it is, fresh or not.
  EXPECT_THAT(fresh.SlotState(1), testing::Each(testing::IsNan()));
}

TEST_P(SelectiveScanTest, ANanStaysInItsRow) {
  ScanCase clean = Case({2, 150, 2});
  ScanCase marked = clean;
  marked.x[2 * marked.stride] = kNan;

  clean.RunOnDevice();
  marked.RunOnDevice();

  EXPECT_TRUE(std::isnan(marked.RowOut(1)[0]));
  for (const int32_t row : {0, 2}) {
    EXPECT_TRUE(BitEqual(marked.RowOut(row), clean.RowOut(row)));
    EXPECT_TRUE(BitEqual(marked.SlotState(row), clean.SlotState(row)));
  }
}

TEST_P(SelectiveScanTest, OutputsInBfloat16AreTheSameRounded) {
  ScanCase exact = Case({3, 90});
  ScanCase rounded = exact;
  rounded.number = StateNumber::kBfloat16;

  exact.RunOnDevice();
  rounded.RunOnDevice();

  for (float& value : exact.out) value = FromBfloat16(ToBfloat16(value));
  EXPECT_TRUE(BitEqual(rounded.out, exact.out));
  EXPECT_TRUE(BitEqual(rounded.state, exact.state));
}

TEST(SelectiveScanRefusalTest, WhatNoKernelTakesIsRefused) {
  ScanCase work(8, 16, {2 * kScanSegment});
  engine::ScanRowsArgs args;
  args.scan = work.Args();
  args.tokens = 2 * kScanSegment;
  args.longest_row = 2 * kScanSegment;
  args.out = work.out.data();
  args.workspace = work.out.data();
  EXPECT_EQ(engine::ScanRows(args, nullptr), cudaErrorInvalidValue);
  args.scan.out = nullptr;
  args.workspace = nullptr;
  EXPECT_EQ(engine::ScanRows(args, nullptr), cudaErrorInvalidValue);
  args.workspace = work.out.data();
  args.scan.states = kScanStatesMax + 1;
  EXPECT_EQ(engine::ScanRows(args, nullptr), cudaErrorInvalidValue);
  EXPECT_EQ(engine::ScanWorkspaceFloats(kScanSegment, 8, 16), 0);
}

}  // namespace
}  // namespace weir::gpu
