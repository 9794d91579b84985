// SPDX-License-Identifier: Apache-2.0
#include "service/pace.h"

#include "gtest/gtest.h"

namespace weir::service {
namespace {

StepStats Step(int64_t tokens, absl::Duration duration) {
  return {.phase = StepPhase::kPrefill,
          .rows = 1,
          .tokens = tokens,
          .duration = duration};
}

TEST(PaceTest, KnowsNothingAtFirst) {
  EXPECT_EQ(Pace().Estimate(1'000'000), absl::ZeroDuration());
}

TEST(PaceTest, FollowsAFasterStepAtOnceAndASlowerOneSlowly) {
  Pace pace;
  pace.OnStep(Step(100, absl::Milliseconds(200)));
  EXPECT_EQ(pace.Estimate(1000), absl::Seconds(2));
  pace.OnStep(Step(100, absl::Milliseconds(100)));
  EXPECT_EQ(pace.Estimate(1000), absl::Seconds(1));
  pace.OnStep(Step(100, absl::Seconds(100)));
  EXPECT_NEAR(absl::ToDoubleSeconds(pace.Estimate(1000)), 1.1, 1e-9);
}

TEST(PaceTest, DecodeStepsSayNothing) {
  Pace pace;
  pace.OnStep(Step(16, absl::Seconds(1)));
  EXPECT_EQ(pace.Estimate(1000), absl::ZeroDuration());
}

TEST(PaceTest, RefusalsWearItDown) {
  Pace pace;
  pace.OnStep(Step(100, absl::Seconds(100)));
  for (int n = 0; n < 200; ++n) pace.OnRefused();
  EXPECT_LT(pace.Estimate(1000), absl::Seconds(1));
}

}  // namespace
}  // namespace weir::service
