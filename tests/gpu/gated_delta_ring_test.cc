// SPDX-License-Identifier: Apache-2.0
//
// What the ring form of Gated DeltaNet's decode must do, against the formulas
// in fp64 and against the form that writes the state in every step. A case's
// states, windows and rings go to the card before each step and come back after
// it, so that all of them are saved and loaded at every place of the ring.
#include "engine/kernels/cuda/gated_delta_ring.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <limits>
#include <numeric>
#include <string>
#include <vector>

#include "tests/conformance/recurrence_case.h"
#include "tests/gpu/gated_delta_case.h"

namespace weir::gpu {
namespace {

using engine::BitEqual;
using engine::GatedDeltaRingForm;
using engine::GateKind;
using engine::kRingHeld;
using engine::kRingSteps;
using engine::RelativeRmse;
using engine::StateNumber;

constexpr float kNan = std::numeric_limits<float>::quiet_NaN();
constexpr StateNumber kBf16 = StateNumber::kBfloat16;
// Between the two forms.
constexpr double kFormsRmseMax = 1e-6;

enum class Form { kReference, kWrite, kRing };

// The rows' tokens `at` to `at` + `count`, as a case of its own that has the
// states of `work`.
GatedDeltaCase Part(const GatedDeltaCase& whole,
                    const GatedDeltaCase& work,
                    int32_t at,
                    int32_t count) {
  GatedDeltaCase part = work;
  part.projected.clear();
  part.row_starts = {0};
  for (size_t row = 0; row < whole.slots.size(); ++row) {
    const int64_t first = whole.row_starts[row] + at;
    part.projected.insert(
        part.projected.end(),
        whole.projected.begin() + first * whole.columns(),
        whole.projected.begin() + (first + count) * whole.columns());
    part.row_starts.push_back(part.row_starts.back() + count);
  }
  part.tokens = part.row_starts.back();
  part.out.assign(part.tokens * part.values(), 0);
  return part;
}

void Run(Form form, GatedDeltaCase& part) {
  if (form == Form::kReference) part.RunReference();
  if (form == Form::kWrite) part.RunOnDevice();
  if (form == Form::kRing) part.RunByRing();
}

// Feeds the rows' next `count` tokens to `work`; returns the outputs.
std::vector<float> Feed(Form form,
                        const GatedDeltaCase& whole,
                        int32_t at,
                        int32_t count,
                        GatedDeltaCase& work) {
  GatedDeltaCase part = Part(whole, work, at, count);
  Run(form, part);
  work.state = part.state;
  work.window = part.window;
  work.ring = part.ring;
  for (uint32_t& consumed : work.consumed) {
    consumed += static_cast<uint32_t>(count);
  }
  return part.out;
}

// The states with their rings folded.
std::vector<float> Folded(const GatedDeltaCase& work) {
  GatedDeltaCase part = Part(work, work, 0, 1);
  part.FoldOnDevice(1);
  for (int32_t slot = 0; slot < part.slot_count; ++slot) {
    const std::vector<float> ring = part.SlotRing(slot);
    for (int32_t h = 0; h < part.shape.heads; ++h) {
      EXPECT_EQ(ring[h * kRingSteps + kRingHeld], 0.0F);
    }
  }
  return part.state;
}

class GatedDeltaRingTest : public testing::TestWithParam<GatedDeltaShape> {
 protected:
  GatedDeltaCase Case(const std::vector<int32_t>& row_tokens) const {
    return GatedDeltaCase(GetParam(), row_tokens, 20261201);
  }
  bool is_float() const { return GetParam().number == StateNumber::kFloat32; }
  // A bf16 output is rounded once, to 8 bits.
  double OutRmseMax() const { return is_float() ? 2e-6 : 3e-3; }

  // Token by token, against the formulas and the form that writes every time.
  void ExpectEveryStepEqual(const GatedDeltaCase& whole, double state_max) {
    GatedDeltaCase want = whole;
    GatedDeltaCase write = whole;
    GatedDeltaCase ring = whole;
    const int32_t count = whole.row_starts[1];
    for (int32_t t = 0; t < count; ++t) {
      SCOPED_TRACE(testing::Message() << "token " << t);
      const auto wanted = Feed(Form::kReference, whole, t, 1, want);
      const auto written = Feed(Form::kWrite, whole, t, 1, write);
      const auto got = Feed(Form::kRing, whole, t, 1, ring);
      ASSERT_LE(RelativeRmse(got, wanted), OutRmseMax());
      ASSERT_LE(RelativeRmse(got, written),
                is_float() ? kFormsRmseMax : OutRmseMax());
      ASSERT_TRUE(BitEqual(ring.window, want.window));
      const std::vector<float> state = Folded(ring);
      ASSERT_LE(RelativeRmse(state, want.state), state_max);
      ASSERT_LE(RelativeRmse(state, write.state), kFormsRmseMax);
    }
  }
};

TEST_P(GatedDeltaRingTest, EqualsTheFormulasAtEveryPlaceAndAcrossFolds) {
  ExpectEveryStepEqual(Case({37, 37}), 2e-6);
}

TEST_P(GatedDeltaRingTest, EqualsTheFormulasFromAFreshSlotOn) {
  GatedDeltaCase whole = Case({19, 19});
  whole.consumed = {0, 0};
  GatedDeltaCase want = whole;
  std::fill(whole.state.begin(), whole.state.end(), kNan);
  std::fill(whole.window.begin(), whole.window.end(), kNan);
  std::fill(whole.ring.begin(), whole.ring.end(), kNan);
  GatedDeltaCase ring = whole;
  for (int32_t t = 0; t < 19; ++t) {
    SCOPED_TRACE(testing::Message() << "token " << t);
    const auto wanted = Feed(Form::kReference, whole, t, 1, want);
    const auto got = Feed(Form::kRing, whole, t, 1, ring);
    ASSERT_LE(RelativeRmse(got, wanted), OutRmseMax());
    ASSERT_LE(RelativeRmse(Folded(ring), want.state), 2e-6);
  }
}

TEST_P(GatedDeltaRingTest, EqualsTheFormulasOverStrongAndAbsentDecay) {
  GatedDeltaCase whole = Case({40});
  // Tokens that forget all, nearly all and nothing, among ordinary ones.
  const float steps[] = {200, -200, 3, 20, 0, -3, -200};
  for (int64_t t = 0; t < whole.tokens; ++t) {
    for (int32_t h = 0; h < whole.shape.heads; ++h) {
      whole
          .projected[t * whole.columns() + whole.mixed() + whole.values() + h] =
          steps[(t + h) % 7];
    }
  }
  ExpectEveryStepEqual(whole, 2e-6);
}

TEST_P(GatedDeltaRingTest, EqualsTheFormulasOverEqualTokens) {
  GatedDeltaCase whole = Case({34});
  for (int64_t t = 1; t < whole.tokens; ++t) {
    std::copy_n(whole.projected.begin(),
                whole.columns(),
                whole.projected.begin() + t * whole.columns());
  }
  // The same decay again and again has the same rounding each time.
  ExpectEveryStepEqual(whole, 1e-6 + 34 * 0x1p-24);
}

TEST_P(GatedDeltaRingTest, ARowOfSeveralTokensFoldsItsRing) {
  const std::vector<int32_t> parts = {1, 1, 5, 1, 1, 1, 17, 33, 1, 2, 1};
  GatedDeltaCase whole = Case({std::accumulate(parts.begin(), parts.end(), 0)});
  GatedDeltaCase want = whole;
  GatedDeltaCase ring = whole;
  int32_t at = 0;
  for (const int32_t count : parts) {
    SCOPED_TRACE(testing::Message() << "token " << at);
    const auto wanted = Feed(Form::kReference, whole, at, count, want);
    const auto got = Feed(Form::kRing, whole, at, count, ring);
    ASSERT_LE(RelativeRmse(got, wanted), OutRmseMax());
    ASSERT_LE(RelativeRmse(Folded(ring), want.state), 2e-6);
    ASSERT_TRUE(BitEqual(ring.window, want.window));
    at += count;
  }
}

// Rows at places of their own in their rings: row r has fed r % kRingSteps
// tokens more than it had.
GatedDeltaCase Spread(GatedDeltaCase work) {
  const std::vector<int32_t> slots = work.slots;
  for (int32_t step = 0; step + 1 < kRingSteps; ++step) {
    GatedDeltaCase part = work;
    part.row_starts.resize(work.slots.size() + 1);
    std::iota(part.row_starts.begin(), part.row_starts.end(), 0);
    part.tokens = part.row_starts.back();
    part.projected.resize(part.tokens * part.columns());
    part.out.resize(part.tokens * part.values());
    for (size_t row = 0; row < slots.size(); ++row) {
      const bool takes_part = static_cast<int32_t>(row) % kRingSteps > step;
      part.slots[row] = takes_part ? slots[row] : -1;
      if (takes_part) ++work.consumed[row];
    }
    part.RunByRing();
    work.state = part.state;
    work.window = part.window;
    work.ring = part.ring;
  }
  return work;
}

// Row `row` of `start` alone.
GatedDeltaCase Alone(const GatedDeltaCase& start, int32_t row) {
  GatedDeltaCase alone = start;
  const int64_t first = start.row_starts[row];
  alone.tokens = start.row_starts[row + 1] - first;
  alone.projected.assign(
      start.projected.begin() + first * start.columns(),
      start.projected.begin() + (first + alone.tokens) * start.columns());
  alone.row_starts = {0, static_cast<int32_t>(alone.tokens)};
  alone.slots = {start.slots[row]};
  alone.consumed = {start.consumed[row]};
  alone.out.resize(alone.tokens * alone.values());
  return alone;
}

void ExpectSameSlot(const GatedDeltaCase& a,
                    int32_t slot_a,
                    const GatedDeltaCase& b,
                    int32_t slot_b) {
  EXPECT_TRUE(BitEqual(a.SlotState(slot_a), b.SlotState(slot_b)));
  EXPECT_TRUE(BitEqual(a.SlotWindow(slot_a), b.SlotWindow(slot_b)));
  EXPECT_TRUE(BitEqual(a.SlotRing(slot_a), b.SlotRing(slot_b)));
}

// Whether the stream form takes it.
bool Streams(const GatedDeltaCase& work) {
  const GatedDeltaShape& shape = work.shape;
  const int64_t bytes = shape.number == StateNumber::kFloat32 ? 4 : 2;
  return shape.conv_width == 4 && !shape.bias && shape.value_dim % 32 == 0 &&
         shape.value_dim <= (shape.key_dim == 256 ? 512 : 256) &&
         work.columns() * bytes % 16 == 0;
}

void ExpectSame(const GatedDeltaCase& a, const GatedDeltaCase& b) {
  EXPECT_TRUE(BitEqual(a.out, b.out));
  EXPECT_TRUE(BitEqual(a.state, b.state));
  EXPECT_TRUE(BitEqual(a.window, b.window));
  EXPECT_TRUE(BitEqual(a.ring, b.ring));
}

TEST_P(GatedDeltaRingTest, EveryFormGivesTheSameBits) {
  for (const int rows : {1, 5, 150}) {
    GatedDeltaCase start = Spread(Case(std::vector<int32_t>(rows, 1)));
    std::reverse(start.slots.begin(), start.slots.end());
    if (rows > 1) {
      start.slots[0] = -1;
      start.slots[rows - 2] = -1;
      start.consumed[rows / 2] = 0;
      start.consumed[1] = 2;
    }
    start.ring_form = GatedDeltaRingForm::kBlocks;
    GatedDeltaCase want = start;
    want.RunByRing();
    if (Streams(start)) {
      GatedDeltaCase got = start;
      got.ring_form = GatedDeltaRingForm::kStream;
      got.RunByRing();
      SCOPED_TRACE("stream");
      ExpectSame(got, want);
    }
    for (const int32_t values : {16, 32, 64, 128, 256}) {
      SCOPED_TRACE(values);
      GatedDeltaCase got = start;
      got.block_values = values;
      got.RunByRing();
      ExpectSame(got, want);
    }
  }
}

TEST_P(GatedDeltaRingTest, NeighboursDoNotMatterToTheBit) {
  const GatedDeltaCase start = Spread(Case(std::vector<int32_t>(130, 1)));
  GatedDeltaCase together = start;
  together.RunByRing();
  for (const int32_t row : {0, 1, 9, 15, 16, 129}) {
    SCOPED_TRACE(row);
    GatedDeltaCase alone = Alone(start, row);
    alone.RunByRing();
    EXPECT_TRUE(BitEqual(alone.out, together.RowOut(row)));
    ExpectSameSlot(alone, row, together, row);
    EXPECT_FALSE(BitEqual(alone.SlotRing(row), start.SlotRing(row)));
    // What the step does not name is as it was.
    const int32_t other = (row + 1) % start.slot_count;
    ExpectSameSlot(alone, other, start, other);
  }
}

TEST_P(GatedDeltaRingTest, RowsOfAnyLengthHaveTheBitsThatTheyHaveAlone) {
  const GatedDeltaCase start =
      Spread(Case({1, 5, 16, 33, 2, 32, 1, 17, 0, 3, 1}));
  GatedDeltaCase together = start;
  together.slots[2] = -1;
  if (Streams(start)) {
    GatedDeltaCase streamed = together;
    streamed.ring_form = GatedDeltaRingForm::kStream;
    streamed.RunByRing();
    together.RunByRing();
    ExpectSame(streamed, together);
  } else {
    together.RunByRing();
  }
  EXPECT_TRUE(BitEqual(together.RowOut(2), start.RowOut(2)));
  ExpectSameSlot(together, 2, start, 2);
  ExpectSameSlot(together, 8, start, 8);
  for (size_t row = 0; row < start.slots.size(); ++row) {
    SCOPED_TRACE(row);
    const auto r = static_cast<int32_t>(row);
    if (together.slots[row] < 0 || r == 8) continue;
    GatedDeltaCase alone = Alone(start, r);
    alone.RunByRing();
    EXPECT_TRUE(BitEqual(alone.out, together.RowOut(r)));
    ExpectSameSlot(alone, r, together, r);
  }
}

TEST_P(GatedDeltaRingTest, ACopiedSlotGoesOnWithTheSameBits) {
  const GatedDeltaCase start = Spread(Case(std::vector<int32_t>(20, 1)));
  GatedDeltaCase moved = start;
  const auto copy = [](std::vector<float>& of, int64_t numbers) {
    std::copy_n(of.begin() + 5 * numbers, numbers, of.begin() + 4 * numbers);
  };
  copy(moved.state, moved.state_numbers());
  copy(moved.window, moved.window_numbers());
  copy(moved.ring, moved.ring_numbers());
  GatedDeltaCase from = Alone(start, 5);
  GatedDeltaCase to = Alone(moved, 5);
  to.slots = {4};

  from.RunByRing();
  to.RunByRing();

  EXPECT_TRUE(BitEqual(from.out, to.out));
  ExpectSameSlot(from, 5, to, 4);
  ExpectSameSlot(to, 5, moved, 5);
}

TEST_P(GatedDeltaRingTest, OnlyRowsOfSoManyTokensAreFolded) {
  const GatedDeltaCase start = Spread(Case({1, 3, 1, 2, 2, 1}));
  GatedDeltaCase folded = start;
  folded.FoldOnDevice(2);
  for (const int32_t row : {0, 2, 5}) ExpectSameSlot(folded, row, start, row);
  for (const int32_t row : {1, 3, 4}) {
    EXPECT_FALSE(BitEqual(folded.SlotState(row), start.SlotState(row)));
  }
  GatedDeltaCase again = folded;
  again.FoldOnDevice(2);
  for (const int32_t row : {1, 3, 4}) ExpectSameSlot(again, row, folded, row);
}

const GatedDeltaShape kShapes[] = {
    {},
    {.heads = 8, .key_heads = 4, .number = kBf16},
    {.heads = 8, .key_heads = 2, .value_dim = 64},
    {.heads = 2, .key_heads = 2, .key_dim = 256, .value_dim = 512},
    {.heads = 2, .key_heads = 1, .value_dim = 512},
    {.heads = 4, .key_heads = 1, .key_dim = 64, .value_dim = 64, .bias = true},
    {.heads = 2,
     .key_heads = 2,
     .key_dim = 64,
     .value_dim = 200,
     .conv_width = 2,
     .gate = GateKind::kSigmoid},
    {.heads = 3, .key_heads = 1, .value_dim = 24, .conv_width = 8},
    {.heads = 4,
     .key_heads = 4,
     .value_dim = 256,
     .conv_width = 7,
     .gate = GateKind::kNone,
     .number = kBf16},
};

INSTANTIATE_TEST_SUITE_P(
    Shapes,
    GatedDeltaRingTest,
    testing::ValuesIn(kShapes),
    [](const testing::TestParamInfo<GatedDeltaShape>& param) {
      const GatedDeltaShape& shape = param.param;
      return std::to_string(shape.heads) + "_" +
             std::to_string(shape.key_heads) + "_" +
             std::to_string(shape.key_dim) + "x" +
             std::to_string(shape.value_dim) + "_" +
             std::to_string(shape.conv_width) +
             (shape.number == kBf16 ? "_bf16" : "_fp32");
    });

}  // namespace
}  // namespace weir::gpu
