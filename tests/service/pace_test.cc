// SPDX-License-Identifier: Apache-2.0
#include "service/pace.h"

#include "gtest/gtest.h"

namespace weir::service {
namespace {

constexpr int64_t kBudget = 512;

StepStats Step(int64_t tokens,
               absl::Duration duration,
               StepPhase phase = StepPhase::kPrefill) {
  return {.phase = phase, .rows = 1, .tokens = tokens, .duration = duration};
}

TEST(PaceTest, KnowsNothingAtFirst) {
  EXPECT_EQ(Pace(kBudget).Estimate(1'000'000), absl::ZeroDuration());
}

TEST(PaceTest, FollowsAFasterStepAtOnceAndASlowerOneSlowly) {
  Pace pace(kBudget);
  pace.OnStep(Step(400, absl::Milliseconds(800)));
  EXPECT_EQ(pace.Estimate(1000), absl::Seconds(2));
  pace.OnStep(Step(400, absl::Milliseconds(400)));
  EXPECT_EQ(pace.Estimate(1000), absl::Seconds(1));
  pace.OnStep(Step(400, absl::Seconds(400)));
  EXPECT_NEAR(absl::ToDoubleSeconds(pace.Estimate(1000)), 1.1, 1e-9);
}

TEST(PaceTest, DecodeStepsSayNothingHoweverManyTheirRows) {
  Pace pace(kBudget);
  for (const int64_t rows : {16, 256, 512}) {
    pace.OnStep(Step(rows, absl::Seconds(1), StepPhase::kDecode));
  }
  EXPECT_EQ(pace.Estimate(1000), absl::ZeroDuration());
}

struct SmallStepCase {
  int64_t budget;
  int64_t enough;  // tokens from which a step counts
};

TEST(PaceTest, SmallStepsSayNothingOfLargeOnes) {
  for (const auto& [budget, enough] : {SmallStepCase{65'536, 256},
                                       SmallStepCase{512, 256},
                                       SmallStepCase{500, 250},
                                       SmallStepCase{33, 17},
                                       SmallStepCase{2, 1}}) {
    SCOPED_TRACE(budget);
    Pace pace(budget);
    pace.OnStep(Step(enough - 1, absl::Seconds(1)));
    EXPECT_EQ(pace.Estimate(1000), absl::ZeroDuration());
    pace.OnStep(Step(enough, absl::Seconds(1), StepPhase::kMixed));
    EXPECT_GT(pace.Estimate(1000), absl::ZeroDuration());
  }
}

TEST(PaceTest, RefusalsWearItDown) {
  Pace pace(kBudget);
  pace.OnStep(Step(400, absl::Seconds(400)));
  for (int n = 0; n < 200; ++n) pace.OnRefused();
  EXPECT_LT(pace.Estimate(1000), absl::Seconds(1));
}

}  // namespace
}  // namespace weir::service
