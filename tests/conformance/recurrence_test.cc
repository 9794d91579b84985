// SPDX-License-Identifier: Apache-2.0
//
// What every form of the recurrence must do, on every target of the machine.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <string>
#include <tuple>

#include "engine/kernels/kernel_target.h"
#include "tests/conformance/recurrence_case.h"
#include "tests/conformance/recurrence_expect.h"

namespace weir::engine {
namespace {

constexpr double kRecurrentRmseMax = 1e-6;
constexpr double kRmseMax = 1e-5;
constexpr float kInfinity = std::numeric_limits<float>::infinity();
constexpr float kNan = std::numeric_limits<float>::quiet_NaN();

constexpr RecurrenceShape kShapes[] = {
    {.heads = 4, .key_heads = 2, .key_dim = 16, .value_dim = 32},
    {.heads = 2, .key_heads = 2, .key_dim = 64, .value_dim = 64},
#if !defined(__SANITIZE_ADDRESS__)
    {.heads = 2, .key_heads = 1, .key_dim = 128, .value_dim = 128},
#endif
    {.heads = 4, .key_heads = 2, .key_dim = 20, .value_dim = 12},
    {.heads = 10, .key_heads = 1, .key_dim = 13, .value_dim = 7},
};

using Param =
    std::tuple<std::string, RecurrenceForm, NamedKind, RecurrenceShape>;

class RecurrenceConformanceTest : public testing::TestWithParam<Param> {
 protected:
  void SetUp() override {
    ASSERT_TRUE(ForceKernelTarget(std::get<0>(GetParam())));
  }
  void TearDown() override { ForceKernelTarget(""); }

  RecurrenceForm form() const { return std::get<1>(GetParam()); }
  RecurrenceShape shape() const {
    RecurrenceShape shape = std::get<3>(GetParam());
    shape.kind = std::get<2>(GetParam()).kind;
    return shape;
  }
  RecurrenceCase Case(const std::vector<int32_t>& row_tokens) const {
    return RecurrenceCase(shape(), row_tokens, 20240601);
  }

  double RmseMax() const {
    return form() == RecurrenceForm::kRecurrent ? kRecurrentRmseMax : kRmseMax;
  }

  // Runs the form and the reference on copies of `start`.
  void ExpectEqualsReference(const RecurrenceCase& start) {
    ExpectEqualsReference(start, RmseMax());
  }
  void ExpectEqualsReference(const RecurrenceCase& start, double rmse_max) {
    RecurrenceCase got = start;
    RecurrenceCase want = start;

    got.Run(form());
    want.Run(RecurrenceForm::kReference);

    ExpectRowsOfReference(start, got, want, rmse_max);
  }
};

TEST_P(RecurrenceConformanceTest, EqualsTheReferenceOverARaggedBatch) {
  RecurrenceCase start = Case({1, 0, 5, 63, 64, 65, 200, 1, 3});
  start.slots = {3, 8, -1, 0, 7, 1, 5, 2, 4};

  ExpectEqualsReference(start);
}

TEST_P(RecurrenceConformanceTest, OneTokenTwiceOverAndTwoAlternating) {
  for (const int32_t period : {1, 2}) {
    for (const float log2_decay : {0.0F, -0.01F, -1.0F}) {
      for (const float beta : {0.0F, 0.5F, 1.0F, 2.0F}) {
        SCOPED_TRACE(testing::Message() << "period " << period << " decay 2^"
                                        << log2_decay << " beta " << beta);
        RecurrenceCase start = Case({150});
        start.RepeatTokens(period);
        start.SetLog2Decay(log2_decay);
        start.SetBeta(beta);

        // With beta = 2 and equal keys a step turns the state's part along the
        // key over, and if the decay takes nothing away no step damps the
        // rounding of an earlier one: it grows with the tokens.
        // A correction that acts before decay would even amplify it.
        const bool is_damped =
            beta < 2 ||
            (log2_decay < -0.1F && shape().kind != RecurrenceKind::kUndecayed);
        ExpectEqualsReference(start, is_damped ? kRmseMax : 1e-4);
      }
    }
  }
}

TEST_P(RecurrenceConformanceTest, ADecayOfZeroForgetsEverything) {
  for (const float log2_decay : {-kInfinity, -1000.0F}) {
    RecurrenceCase every = Case({130, 1});
    every.SetLog2Decay(log2_decay);
    RecurrenceCase some = Case({130, 1});
    for (size_t i = 0; i < some.log2_decay.size(); i += 37) {
      if (some.log2_decay[i] != kGapMark) some.log2_decay[i] = log2_decay;
    }

    ExpectEqualsReference(every);
    ExpectEqualsReference(some);
  }
}

TEST_P(RecurrenceConformanceTest, AnySplitOfARowGivesTheSame) {
  RecurrenceCase whole = Case({150});
  RecurrenceCase split = whole;

  whole.Run(form());
  int32_t at = 0;
  for (const int32_t count : {1, 63, 0, 2, 1, 70, 13}) {
    split.row_starts = {at, at + count};
    split.Run(form());
    at += count;
  }

  ASSERT_EQ(at, 150);
  EXPECT_LE(RelativeRmse(split.AllOut(), whole.AllOut()), kRmseMax);
  EXPECT_LE(RelativeRmse(split.AllStates(), whole.AllStates()), kRmseMax);
}

TEST_P(RecurrenceConformanceTest, BothFormsMayTakeTurnsInOneRow) {
  RecurrenceCase want = Case({150});
  RecurrenceCase got = want;

  want.Run(RecurrenceForm::kReference);
  got.row_starts = {0, 100};
  got.Run(RecurrenceForm::kChunk);
  got.row_starts = {100, 107};
  got.Run(RecurrenceForm::kRecurrent);
  got.row_starts = {107, 150};
  got.Run(form());

  EXPECT_LE(RelativeRmse(got.AllOut(), want.AllOut()), kRmseMax);
  EXPECT_LE(RelativeRmse(got.AllStates(), want.AllStates()), kRmseMax);
}

TEST_P(RecurrenceConformanceTest, ARowAloneEqualsItAmongOthersToTheBit) {
  RecurrenceCase together = Case({7, 90, 1, 64});
  const RecurrenceCase start = together;

  together.Run(form());

  for (int32_t row = 0; row < 4; ++row) {
    RecurrenceCase alone = start;
    alone.slots = {row};
    alone.row_starts = {start.row_starts[row], start.row_starts[row + 1]};
    alone.Run(form());
    EXPECT_TRUE(BitEqual(alone.RowOut(0), together.RowOut(row)));
    EXPECT_TRUE(BitEqual(alone.SlotState(row), together.SlotState(row)));
  }
}

TEST_P(RecurrenceConformanceTest, WorkItemsMayBeCutAnywhere) {
  RecurrenceCase whole = Case({7, 90, 1, 64});
  RecurrenceCase cut = whole;
  const int64_t items = 4 * int64_t{shape().heads};

  whole.Run(form());
  for (int64_t begin = items; begin > 0;) {
    const int64_t end = begin;
    begin = std::max<int64_t>(0, end - 3);
    cut.Run(form(), begin, end);
  }

  EXPECT_TRUE(BitEqual(cut.out, whole.out));
  EXPECT_TRUE(BitEqual(cut.state, whole.state));
}

TEST_P(RecurrenceConformanceTest, AnyPermutationOfSlotsGivesTheSame) {
  RecurrenceCase straight = Case({7, 90, 1, 64});
  RecurrenceCase permuted = straight;
  permuted.slots = {2, 0, 3, 1};
  for (int32_t row = 0; row < 4; ++row) {
    std::copy_n(
        straight.state.begin() + row * straight.state_stride,
        straight.state_stride,
        permuted.state.begin() + permuted.slots[row] * straight.state_stride);
  }

  straight.Run(form());
  permuted.Run(form());

  EXPECT_TRUE(BitEqual(permuted.out, straight.out));
  for (int32_t row = 0; row < 4; ++row) {
    EXPECT_TRUE(BitEqual(permuted.SlotState(permuted.slots[row]),
                         straight.SlotState(row)));
  }
}

TEST_P(RecurrenceConformanceTest, ASlotThatNoRowNamesStaysBitEqual) {
  RecurrenceCase got = Case({70, 2, 5});
  const RecurrenceCase start = got;
  got.slots = {2, -1, 0};

  got.Run(form());

  EXPECT_TRUE(BitEqual(got.SlotState(1), start.SlotState(1)));
  EXPECT_FALSE(BitEqual(got.SlotState(0), start.SlotState(0)));
  EXPECT_FALSE(BitEqual(got.SlotState(2), start.SlotState(2)));
}

TEST_P(RecurrenceConformanceTest, APaddingRowIsNeitherReadNorWritten) {
  RecurrenceCase got = Case({3, 80});
  got.slots = {-1, 0};
  // Were an address formed for slot -1, it would be far outside.
  got.state_stride = int64_t{1} << 44;

  RecurrenceArgs args = got.Args();
  args.state_stride = got.state_stride;
  const int64_t items = 2 * int64_t{shape().heads};
  if (form() == RecurrenceForm::kChunk) {
    RecurrenceChunk(args, 0, items);
  } else {
    RecurrenceRecurrent(args, 0, items);
  }

  EXPECT_THAT(got.RowOut(0), testing::Each(kGapMark));
  EXPECT_THAT(got.RowOut(1), testing::Not(testing::Contains(kGapMark)));
}

TEST_P(RecurrenceConformanceTest, ARowOfNoTokensDoesNothing) {
  RecurrenceCase got = Case({0, 0});
  const RecurrenceCase start = got;

  got.Run(form());

  EXPECT_TRUE(BitEqual(got.state, start.state));
}

TEST_P(RecurrenceConformanceTest, OneTokenOnAFreshStateIsTheFormula) {
  RecurrenceCase got = Case({1});
  for (float& x : got.state) {
    if (x != kGapMark) x = 0;
  }

  got.Run(form());

  // S = k u^T with u = beta v, or v; so o = u (k.q).
  const RecurrenceShape s = shape();
  const std::vector<float> out = got.AllOut();
  for (int32_t h = 0; h < s.heads; ++h) {
    const int64_t key = h / (s.heads / s.key_heads) * int64_t{s.key_dim};
    double dot = 0;
    for (int32_t i = 0; i < s.key_dim; ++i) {
      const bool before = s.kind == RecurrenceKind::kReadBefore;
      dot += double{got.k[key + i]} * got.q[key + i] *
             (before ? got.bonus[h * s.key_dim + i] : 1);
    }
    const bool scaled =
        s.kind == RecurrenceKind::kDelta || s.kind == RecurrenceKind::kDecayed;
    const double beta = scaled ? got.beta[h] : 1;
    for (int32_t i = 0; i < s.value_dim; ++i) {
      const int64_t at = int64_t{h} * s.value_dim + i;
      const double want = beta * got.v[at] * dot;
      EXPECT_NEAR(out[at], want, 1e-6 * std::fabs(beta * got.v[at]));
    }
  }
}

TEST_P(RecurrenceConformanceTest, ANanStateStaysInItsOwnRow) {
  RecurrenceCase clean = Case({70, 3, 65});
  RecurrenceCase marked = clean;
  std::fill_n(
      marked.state.begin() + marked.state_stride, marked.state_stride, kNan);

  clean.Run(form());
  marked.Run(form());

  EXPECT_THAT(marked.RowOut(1), testing::Each(testing::IsNan()));
  EXPECT_THAT(marked.SlotState(1), testing::Each(testing::IsNan()));
  for (const int32_t row : {0, 2}) {
    EXPECT_TRUE(BitEqual(marked.RowOut(row), clean.RowOut(row)));
    EXPECT_TRUE(BitEqual(marked.SlotState(row), clean.SlotState(row)));
  }
}

TEST_P(RecurrenceConformanceTest, ANanStateShowsEvenIfTheDecayIsZero) {
  RecurrenceCase got = Case({70});
  got.SetLog2Decay(-kInfinity);
  std::fill_n(got.state.begin(), got.state_stride, kNan);

  got.Run(form());

  EXPECT_THAT(got.AllOut(), testing::Each(testing::IsNan()));
}

TEST_P(RecurrenceConformanceTest, ANanInATokenDoesNotReachEarlierOnes) {
  constexpr int64_t kAt = 41;
  RecurrenceCase clean = Case({100});
  RecurrenceCase with_value = clean;
  RecurrenceCase with_decay = clean;
  for (int64_t i = 0; i < clean.value_stride; ++i) {
    with_value.v[kAt * clean.value_stride + i] = kNan;
  }
  // Where the state is read before the write, a decay shows a token later.
  const int64_t at =
      shape().kind == RecurrenceKind::kReadBefore ? kAt - 1 : kAt;
  for (int64_t i = 0; i < clean.decay_stride; ++i) {
    with_decay.log2_decay[at * clean.decay_stride + i] = kNan;
  }

  clean.Run(form());
  with_value.Run(form());
  with_decay.Run(form());

  const size_t before = kAt * (clean.value_stride - 5);
  for (const RecurrenceCase* marked : {&with_value, &with_decay}) {
    std::vector<float> out = marked->AllOut();
    std::vector<float> want = clean.AllOut();
    std::vector<float> after(out.begin() + before, out.end());
    out.resize(before);
    want.resize(before);
    EXPECT_TRUE(BitEqual(out, want));
    EXPECT_THAT(after, testing::Each(testing::IsNan()));
    EXPECT_THAT(marked->AllStates(), testing::Each(testing::IsNan()));
  }
}

std::vector<std::string> Targets() {
  std::vector<std::string> targets;
  for (const std::string_view name : KernelTargets()) {
    targets.emplace_back(name);
  }
  return targets;
}

std::string ParamName(const testing::TestParamInfo<Param>& info) {
  const RecurrenceShape& shape = std::get<3>(info.param);
  return std::get<0>(info.param) +
         (std::get<1>(info.param) == RecurrenceForm::kChunk ? "Chunk"
                                                            : "Recurrent") +
         std::get<2>(info.param).name + std::to_string(shape.key_dim) + "x" +
         std::to_string(shape.value_dim);
}

INSTANTIATE_TEST_SUITE_P(
    Forms,
    RecurrenceConformanceTest,
    testing::Combine(testing::ValuesIn(Targets()),
                     testing::Values(RecurrenceForm::kRecurrent,
                                     RecurrenceForm::kChunk),
                     testing::ValuesIn(kRecurrenceKinds),
                     testing::ValuesIn(kShapes)),
    ParamName);

TEST(KernelTargetTest, TheBaselineIsAlwaysThereAndNoUnknownTargetIsTaken) {
  EXPECT_EQ(KernelTargets().back(), "baseline");
  EXPECT_EQ(KernelTargets().front(), CpuKernelTarget());
  EXPECT_FALSE(ForceKernelTarget("avx1024"));
  EXPECT_EQ(KernelTargets().front(), CpuKernelTarget());
}

}  // namespace
}  // namespace weir::engine
