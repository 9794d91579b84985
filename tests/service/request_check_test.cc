// SPDX-License-Identifier: Apache-2.0
#include "service/request_check.h"

#include <limits>
#include <string>
#include <vector>

#include "gtest/gtest.h"
#include "service/error.h"

namespace weir::service {
namespace {

constexpr float kNan = std::numeric_limits<float>::quiet_NaN();
constexpr float kInf = std::numeric_limits<float>::infinity();

TEST(CheckSessionIdTest, TakesOneTo128OfItsAlphabet) {
  for (const std::string& id :
       {std::string("a"), std::string("a-b_c.9"), std::string(128, 'z')}) {
    EXPECT_TRUE(CheckSessionId(id).ok()) << id;
  }
  for (const std::string& id : {std::string(),
                                std::string(129, 'z'),
                                std::string(4096, 'z'),
                                std::string("A"),
                                std::string("a b"),
                                std::string("a/b"),
                                std::string("a\0b", 3),
                                std::string("\xc3\xa4")}) {
    EXPECT_EQ(ReasonOf(CheckSessionId(id)), Reason::kBadId) << id;
  }
}

TEST(CheckRequestIdTest, TakesAnythingUpTo128Bytes) {
  EXPECT_TRUE(CheckRequestId("").ok());
  EXPECT_TRUE(CheckRequestId(std::string(128, '\xff')).ok());
  EXPECT_EQ(ReasonOf(CheckRequestId(std::string(129, 'a'))), Reason::kBadValue);
}

TEST(CheckIdleTimeoutTest, TakesOneSecondToTheLimit) {
  const absl::Duration limit = absl::Hours(2);
  EXPECT_TRUE(CheckIdleTimeout(absl::Seconds(1), limit).ok());
  EXPECT_TRUE(CheckIdleTimeout(limit, limit).ok());
  for (const absl::Duration timeout : {absl::ZeroDuration(),
                                       absl::Milliseconds(999),
                                       -absl::Seconds(5),
                                       limit + absl::Nanoseconds(1),
                                       absl::InfiniteDuration(),
                                       -absl::InfiniteDuration()}) {
    EXPECT_EQ(ReasonOf(CheckIdleTimeout(timeout, limit)), Reason::kBadTtl);
  }
}

TEST(CheckTokensTest, NamesTheFirstTokenBeyondTheVocabulary) {
  for (const uint32_t bad : {256u, 257u, ~0u}) {
    const absl::Status status =
        CheckTokens(std::vector<uint32_t>{0, 255, bad, bad}, 10, 256);
    EXPECT_EQ(ReasonOf(status), Reason::kTokenOutOfVocab);
    EXPECT_EQ(ValuesOf(status)[0],
              (std::pair<std::string, std::string>("index", "2")));
  }
  EXPECT_TRUE(CheckTokens(std::vector<uint32_t>{0, 255}, 2, 256).ok());
  EXPECT_EQ(ReasonOf(CheckTokens(std::vector<uint32_t>{0, 1, 2}, 2, 256)),
            Reason::kTooManyTokens);
}

struct SamplingCase {
  std::string name;
  SamplingRequest sampling;
  bool good;
};

class CheckSamplingTable : public testing::TestWithParam<SamplingCase> {};

TEST_P(CheckSamplingTable, IsTakenOrRefused) {
  const absl::Status status = CheckSampling(GetParam().sampling);
  EXPECT_EQ(status.ok(), GetParam().good);
  if (!status.ok()) {
    EXPECT_EQ(ReasonOf(status), Reason::kBadSampling);
  }
}

INSTANTIATE_TEST_SUITE_P(
    CheckSamplingTest,
    CheckSamplingTable,
    testing::Values(
        SamplingCase{"Default", {}, true},
        SamplingCase{"Greedy", {.temperature = 0}, true},
        SamplingCase{"Denormal", {.temperature = 1e-45f}, true},
        SamplingCase{"Hot", {.temperature = 100}, true},
        SamplingCase{"TooHot", {.temperature = 1e38f}, false},
        SamplingCase{"NanHot", {.temperature = kNan}, false},
        SamplingCase{"InfHot", {.temperature = kInf}, false},
        SamplingCase{"MinusInfHot", {.temperature = -kInf}, false},
        SamplingCase{"Cold", {.temperature = -1}, false},
        SamplingCase{"TopK", {.top_k = 1}, true},
        SamplingCase{"TopKLargest", {.top_k = 2147483647}, true},
        SamplingCase{"TopKNegative", {.top_k = -1}, false},
        SamplingCase{"TopKMostNegative", {.top_k = -2147483647 - 1}, false},
        SamplingCase{"TopP", {.top_p = 1e-9f}, true},
        SamplingCase{"TopPZero", {.top_p = 0}, false},
        SamplingCase{"TopPMinusZero", {.top_p = -0.0f}, false},
        SamplingCase{"TopPOverOne", {.top_p = 1.0001f}, false},
        SamplingCase{"TopPNan", {.top_p = kNan}, false},
        SamplingCase{"MinP", {.min_p = 1}, true},
        SamplingCase{"MinPNegative", {.min_p = -0.1f}, false},
        SamplingCase{"MinPOverOne", {.min_p = 1.1f}, false},
        SamplingCase{"MinPNan", {.min_p = kNan}, false},
        SamplingCase{"Penalty", {.repetition_penalty = 0.01f}, true},
        SamplingCase{"PenaltyZero", {.repetition_penalty = 0}, false},
        SamplingCase{"PenaltyHuge", {.repetition_penalty = 1e30f}, false},
        SamplingCase{"PenaltyNan", {.repetition_penalty = kNan}, false}),
    [](const testing::TestParamInfo<SamplingCase>& info) {
      return info.param.name;
    });

TEST(ToSamplingTest, TemperaturesBelowAThousandthAreGreedy) {
  EXPECT_EQ(ToSampling({.temperature = 1e-45f}).temperature, 0);
  EXPECT_EQ(ToSampling({.temperature = 0.0009f}).temperature, 0);
  EXPECT_EQ(ToSampling({.temperature = 1e-3f}).temperature, 1e-3f);
}

TEST(CheckStopTokensTest, TakesSixtyFourBelowTheVocabulary) {
  EXPECT_TRUE(CheckStopTokens(std::vector<uint32_t>(64, 255), 256).ok());
  EXPECT_EQ(ReasonOf(CheckStopTokens(std::vector<uint32_t>(65, 255), 256)),
            Reason::kBadSampling);
  EXPECT_EQ(ReasonOf(CheckStopTokens(std::vector<uint32_t>{1, 256}, 256)),
            Reason::kBadSampling);
}

}  // namespace
}  // namespace weir::service
