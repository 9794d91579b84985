// SPDX-License-Identifier: Apache-2.0
//
// What Gated DeltaNet's fused decode must do, against the formulas in fp64.
#include "engine/kernels/cuda/gated_delta_decode.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>
#include <random>
#include <string>
#include <vector>

#include "tests/conformance/recurrence_case.h"
#include "tests/gpu/gated_delta_case.h"

namespace weir::gpu {
namespace {

using engine::BitEqual;
using engine::GatedDeltaForm;
using engine::GateKind;
using engine::RelativeRmse;
using engine::StateNumber;

constexpr float kNan = std::numeric_limits<float>::quiet_NaN();
constexpr StateNumber kBf16 = StateNumber::kBfloat16;

class GatedDeltaDecodeTest : public testing::TestWithParam<GatedDeltaShape> {
 protected:
  GatedDeltaCase Case(const std::vector<int32_t>& row_tokens) const {
    return GatedDeltaCase(GetParam(), row_tokens, 20240611);
  }
  // A bf16 output is rounded once, to 8 bits.
  double OutRmseMax() const {
    return GetParam().number == StateNumber::kFloat32 ? 2e-6 : 3e-3;
  }

  void ExpectEqualsReference(const GatedDeltaCase& start) {
    GatedDeltaCase got = start;
    GatedDeltaCase want = start;
    got.RunOnDevice();
    want.RunReference();
    for (size_t row = 0; row < start.slots.size(); ++row) {
      const auto r = static_cast<int32_t>(row);
      SCOPED_TRACE(testing::Message() << "row " << r);
      const int32_t slot = start.slots[row];
      if (slot < 0) {
        EXPECT_EQ(got.RowOut(r), start.RowOut(r));
        continue;
      }
      EXPECT_LE(RelativeRmse(got.RowOut(r), want.RowOut(r)), OutRmseMax());
      EXPECT_LE(RelativeRmse(got.SlotState(slot), want.SlotState(slot)), 2e-6);
      EXPECT_TRUE(BitEqual(got.SlotWindow(slot), want.SlotWindow(slot)));
    }
  }
};

TEST_P(GatedDeltaDecodeTest, EqualsTheFormulasOverOneTokenOfEachRow) {
  for (const int rows : {1, 9, 80}) {
    GatedDeltaCase start = Case(std::vector<int32_t>(rows, 1));
    std::shuffle(start.slots.begin(), start.slots.end(), std::mt19937(3));
    if (rows > 1) start.slots[1] = -1;

    ExpectEqualsReference(start);
  }
}

TEST_P(GatedDeltaDecodeTest, EqualsTheFormulasOverARaggedBatch) {
  GatedDeltaCase start = Case({1, 0, 5, 32, 2, 3, 1});
  start.slots = {3, 6, -1, 0, 1, 5, 2};

  ExpectEqualsReference(start);
}

TEST_P(GatedDeltaDecodeTest, EqualsTheFormulasAtEveryLength) {
  std::vector<int32_t> row_tokens(36);
  std::iota(row_tokens.begin(), row_tokens.end(), 0);
  GatedDeltaCase start = Case(row_tokens);
  std::shuffle(start.slots.begin(), start.slots.end(), std::mt19937(5));
  start.consumed[7] = 0;
  start.consumed[18] = 0;
  start.consumed[34] = 0;

  ExpectEqualsReference(start);
}

TEST_P(GatedDeltaDecodeTest, EqualsTheFormulasOverManyRowsOfSeveralTokens) {
  // As many as give a block several units, and one unit to several blocks.
  GatedDeltaCase start = Case(std::vector<int32_t>(150, 2));
  std::shuffle(start.slots.begin(), start.slots.end(), std::mt19937(6));
  start.slots[3] = -1;
  start.slots[149] = -1;

  ExpectEqualsReference(start);
}

TEST_P(GatedDeltaDecodeTest, EqualsTheFormulasOverEqualTokens) {
  GatedDeltaCase start = Case({16, 32});
  for (int64_t t = 1; t < start.tokens; ++t) {
    std::copy_n(start.projected.begin(),
                start.columns(),
                start.projected.begin() + t * start.columns());
  }
  GatedDeltaCase stepped = start;
  stepped.shape.form = GatedDeltaForm::kWhole;
  GatedDeltaCase want = start;
  want.RunReference();
  for (GatedDeltaCase got : {start, stepped}) {
    got.RunOnDevice();
    EXPECT_LE(RelativeRmse(got.out, want.out), OutRmseMax());
    for (size_t row = 0; row < start.slots.size(); ++row) {
      // The same decay again and again has the same rounding, of at most half
      // of 2^-23, as often as there are tokens, one after another as well.
      const int32_t tokens = start.row_starts[row + 1] - start.row_starts[row];
      const int32_t slot = start.slots[row];
      EXPECT_LE(RelativeRmse(got.SlotState(slot), want.SlotState(slot)),
                std::max(2e-6, 1e-6 + tokens * 0x1p-24));
    }
  }
}

TEST_P(GatedDeltaDecodeTest, EqualsTheFormulasOverStrongAndAbsentDecay) {
  GatedDeltaCase start = Case({16, 32, 9});
  // Tokens that forget all, nearly all and nothing, among ordinary ones.
  const float steps[] = {200, -200, 3, 20, 0, -3};
  for (int64_t t = 0; t < start.tokens; ++t) {
    for (int32_t h = 0; h < start.shape.heads; ++h) {
      start
          .projected[t * start.columns() + start.mixed() + start.values() + h] =
          steps[(t + h) % 6];
    }
  }

  ExpectEqualsReference(start);
}

// The case's only row in parts, one call each, into `work`.
std::vector<float> RunInParts(const std::vector<int32_t>& parts,
                              GatedDeltaCase& work) {
  const GatedDeltaCase whole = work;
  int32_t at = 0;
  std::vector<float> out;
  for (const int32_t count : parts) {
    GatedDeltaCase part = work;
    part.projected.assign(
        whole.projected.begin() + at * whole.columns(),
        whole.projected.begin() + (at + count) * whole.columns());
    part.row_starts = {0, count};
    part.tokens = count;
    part.out.resize(count * part.values());
    part.RunOnDevice();
    out.insert(out.end(), part.out.begin(), part.out.end());
    work.state = part.state;
    work.window = part.window;
    work.consumed[0] += static_cast<uint32_t>(count);
    at += count;
  }
  EXPECT_EQ(at, whole.tokens);
  return out;
}

TEST_P(GatedDeltaDecodeTest, AnySplitTokenByTokenGivesTheSameBits) {
  GatedDeltaCase whole = Case({20});
  whole.shape.form = GatedDeltaForm::kWhole;
  GatedDeltaCase split = whole;

  whole.RunOnDevice();
  const std::vector<float> out = RunInParts({1, 2, 1, 9, 7}, split);

  EXPECT_TRUE(BitEqual(out, whole.out));
  EXPECT_TRUE(BitEqual(split.state, whole.state));
  EXPECT_TRUE(BitEqual(split.window, whole.window));
}

TEST_P(GatedDeltaDecodeTest, AnySplitComesAsNearToTheFormulas) {
  for (const std::vector<int32_t>& parts :
       {std::vector<int32_t>{1, 16, 3}, {32, 2}, {5, 1, 31}, {33, 4}}) {
    GatedDeltaCase want =
        Case({std::accumulate(parts.begin(), parts.end(), 0)});
    GatedDeltaCase split = want;

    want.RunReference();
    const std::vector<float> out = RunInParts(parts, split);

    EXPECT_LE(RelativeRmse(out, want.out), OutRmseMax());
    EXPECT_LE(RelativeRmse(split.state, want.state), 2e-6);
    EXPECT_TRUE(BitEqual(split.window, want.window));
  }
}

// Two pieces a unit, several units a block: of heads of few values a unit has
// fewer slabs than a block has warps.
TEST_P(GatedDeltaDecodeTest, EqualsTheFormulasOverManyRowsOfManyTokens) {
  std::vector<int32_t> row_tokens(150);
  for (int32_t row = 0; row < 150; ++row) row_tokens[row] = 2 + 7 * row % 31;
  GatedDeltaCase start = Case(row_tokens);
  std::shuffle(start.slots.begin(), start.slots.end(), std::mt19937(7));
  start.slots[70] = -1;

  ExpectEqualsReference(start);
}

TEST_P(GatedDeltaDecodeTest, ARowAmongOthersOfAnyLengthHasTheBitsItHasAlone) {
  const std::vector<int32_t> row_tokens = {1, 5, 16, 33, 2, 32, 1, 17, 0, 3};
  const GatedDeltaCase start = Case(row_tokens);
  GatedDeltaCase together = start;
  together.RunOnDevice();
  for (size_t row = 0; row < row_tokens.size(); ++row) {
    SCOPED_TRACE(testing::Message() << "row " << row);
    if (row_tokens[row] == 0) continue;
    const int64_t first = start.row_starts[row];
    GatedDeltaCase alone = start;
    alone.projected.assign(
        start.projected.begin() + first * start.columns(),
        start.projected.begin() + start.row_starts[row + 1] * start.columns());
    alone.row_starts = {0, row_tokens[row]};
    alone.tokens = row_tokens[row];
    alone.slots = {start.slots[row]};
    alone.consumed = {start.consumed[row]};
    alone.out.resize(alone.tokens * alone.values());
    alone.RunOnDevice();
    const auto r = static_cast<int32_t>(row);
    EXPECT_TRUE(BitEqual(alone.out, together.RowOut(r)));
    EXPECT_TRUE(BitEqual(alone.SlotState(r), together.SlotState(r)));
    EXPECT_TRUE(BitEqual(alone.SlotWindow(r), together.SlotWindow(r)));
  }
}

TEST_P(GatedDeltaDecodeTest, NeighboursAndSlotsDoNotMatter) {
  // As many rows as take the form of many states.
  GatedDeltaCase together = Case(std::vector<int32_t>(130, 1));
  GatedDeltaCase alone = together;
  alone.row_starts = {0, 1};
  alone.slots = {0};
  alone.tokens = 1;

  together.RunOnDevice();
  alone.RunOnDevice();

  EXPECT_TRUE(BitEqual(alone.RowOut(0), together.RowOut(0)));
  EXPECT_TRUE(BitEqual(alone.SlotState(0), together.SlotState(0)));
  EXPECT_FALSE(BitEqual(alone.SlotState(1), together.SlotState(1)));
}

// The forms that take the shape.
std::vector<GatedDeltaForm> FormsOf(const GatedDeltaShape& shape) {
  std::vector<GatedDeltaForm> forms = {GatedDeltaForm::kWhole};
  // Eight blocks of 4,096 numbers make a head.
  if (shape.value_dim * shape.key_dim <= 8 * 4096) {
    forms.push_back(GatedDeltaForm::kSpread);
  }
  if (shape.conv_width == 4 && shape.value_dim <= 2 * shape.key_dim &&
      shape.value_dim * shape.key_dim % 2048 == 0) {
    forms.push_back(GatedDeltaForm::kStream);
  }
  return forms;
}

void ExpectEveryFormGivesTheSameBits(GatedDeltaCase start) {
  const auto rows = static_cast<int>(start.slots.size());
  std::shuffle(start.slots.begin(), start.slots.end(), std::mt19937(4));
  if (rows > 1) {
    start.slots[0] = -1;
    start.slots[rows / 2] = -1;
    start.slots[rows / 2 + 1] = -1;
    start.consumed[rows / 3] = 0;
  }
  GatedDeltaCase want = start;
  want.RunOnDevice();
  for (const GatedDeltaForm form : FormsOf(start.shape)) {
    for (const bool begins_early : {false, true}) {
      SCOPED_TRACE(testing::Message()
                   << static_cast<int>(form) << " " << begins_early);
      GatedDeltaCase got = start;
      got.shape.form = form;
      got.shape.begins_early = begins_early;
      got.RunOnDevice();
      EXPECT_TRUE(BitEqual(got.out, want.out));
      EXPECT_TRUE(BitEqual(got.state, want.state));
      EXPECT_TRUE(BitEqual(got.window, want.window));
    }
  }
}

TEST_P(GatedDeltaDecodeTest, EveryFormGivesTheSameBits) {
  for (const int rows : {1, 13, 300}) {
    for (const StateNumber number : {StateNumber::kFloat32, kBf16}) {
      SCOPED_TRACE(testing::Message() << rows << " rows");
      GatedDeltaCase start = Case(std::vector<int32_t>(rows, 1));
      start.shape.state_number = number;
      ExpectEveryFormGivesTheSameBits(start);
    }
  }
}

TEST_P(GatedDeltaDecodeTest, WhatIsNotFiniteAtRestAsBfloat16StaysSo) {
  GatedDeltaCase start = Case(std::vector<int32_t>(130, 1));
  start.shape.state_number = kBf16;
  const int64_t dim = start.shape.key_dim;
  start.state[5] = kNan;
  start.state[dim + 5] = std::numeric_limits<float>::infinity();
  for (const GatedDeltaForm form : FormsOf(GetParam())) {
    SCOPED_TRACE(static_cast<int>(form));
    GatedDeltaCase got = start;
    got.shape.form = form;
    got.RunOnDevice();
    for (int64_t i = 0; i < dim; ++i) {
      EXPECT_TRUE(std::isnan(got.state[i]));
      EXPECT_FALSE(std::isfinite(got.state[dim + i]));
      EXPECT_TRUE(std::isfinite(got.state[2 * dim + i]));
    }
  }
}

TEST_P(GatedDeltaDecodeTest, AFreshSlotReadsAsZeroWhateverItHolds) {
  for (const int32_t count : {1, 3}) {
    GatedDeltaCase fresh = Case({count});
    fresh.consumed = {0};
    GatedDeltaCase zero = fresh;
    std::fill(fresh.state.begin(), fresh.state.end(), kNan);
    std::fill(fresh.window.begin(), fresh.window.end(), kNan);

    fresh.RunOnDevice();
    zero.RunReference();

    EXPECT_LE(RelativeRmse(fresh.out, zero.out), OutRmseMax());
    EXPECT_LE(RelativeRmse(fresh.state, zero.state), 2e-6);
  }
}

TEST_P(GatedDeltaDecodeTest, ANanStaysInItsRowAndUntouchedSlotsKeepTheirBits) {
  GatedDeltaCase clean = Case({2, 2, 2});
  clean.slots = {0, 1, -1};
  GatedDeltaCase marked = clean;
  marked.projected[0] = kNan;

  const GatedDeltaCase before = clean;
  clean.RunOnDevice();
  marked.RunOnDevice();

  EXPECT_TRUE(std::isnan(marked.RowOut(0)[0]));
  EXPECT_TRUE(BitEqual(marked.RowOut(1), clean.RowOut(1)));
  EXPECT_TRUE(BitEqual(marked.SlotState(1), clean.SlotState(1)));
  EXPECT_TRUE(BitEqual(marked.SlotState(2), before.SlotState(2)));
  EXPECT_TRUE(BitEqual(marked.SlotWindow(2), before.SlotWindow(2)));
}

const GatedDeltaShape kShapes[] = {
    {},
    {.number = kBf16},
    {.heads = 8, .key_heads = 4, .number = kBf16},
    {.heads = 3, .key_heads = 3, .key_dim = 256, .value_dim = 512},
    {.heads = 2, .key_heads = 1, .key_dim = 64, .value_dim = 64, .bias = true},
    {.heads = 4, .key_heads = 4, .key_dim = 64, .value_dim = 64},
    {.heads = 2,
     .key_heads = 2,
     .key_dim = 64,
     .value_dim = 200,
     .conv_width = 2,
     .gate = GateKind::kSigmoid},
    {.heads = 4,
     .key_heads = 4,
     .value_dim = 256,
     .conv_width = 7,
     .gate = GateKind::kNone,
     .number = kBf16},
};

INSTANTIATE_TEST_SUITE_P(
    Shapes,
    GatedDeltaDecodeTest,
    testing::ValuesIn(kShapes),
    [](const testing::TestParamInfo<GatedDeltaShape>& param) {
      const GatedDeltaShape& shape = param.param;
      return std::to_string(shape.heads) + "_" + std::to_string(shape.key_dim) +
             "x" + std::to_string(shape.value_dim) + "_" +
             std::to_string(shape.conv_width) +
             (shape.number == kBf16 ? "_bf16" : "_fp32");
    });

}  // namespace
}  // namespace weir::gpu
