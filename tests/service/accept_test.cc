// SPDX-License-Identifier: Apache-2.0
#include "service/accept.h"

#include <string>
#include <vector>

#include "gtest/gtest.h"

namespace weir::service {
namespace {

constexpr uint64_t kLast = ~uint64_t{0};
constexpr uint64_t kMax = uint64_t{1} << 40;

struct Case {
  std::string name;
  uint64_t expected;
  uint64_t count;
  uint64_t end;
  uint64_t session_max;
  Verdict verdict;
  uint64_t overlap;
};

class JudgeAppendTable : public testing::TestWithParam<Case> {};

TEST_P(JudgeAppendTable, GivesThisVerdict) {
  const Case& given = GetParam();
  const Judgement judgement =
      JudgeAppend(given.expected, given.count, given.end, given.session_max);
  EXPECT_EQ(judgement.verdict, given.verdict);
  EXPECT_EQ(judgement.overlap, given.overlap);
}

INSTANTIATE_TEST_SUITE_P(
    JudgeAppendTest,
    JudgeAppendTable,
    testing::Values(
        Case{"FirstAppend", 0, 5, 0, kMax, Verdict::kFresh, 0},
        Case{"AtTheEnd", 7, 5, 7, kMax, Verdict::kFresh, 0},
        Case{"Empty", 7, 0, 7, kMax, Verdict::kEmpty, 0},
        Case{"EmptyAheadIsAPositionRead", 9, 0, 7, kMax, Verdict::kEmpty, 0},
        Case{"EmptyAtTheVeryLast", kLast, 0, 7, kMax, Verdict::kEmpty, 0},
        Case{"WhollyBehind", 2, 5, 10, kMax, Verdict::kBehind, 5},
        Case{"EndsAtTheEnd", 5, 5, 10, kMax, Verdict::kBehind, 5},
        Case{"Overlap", 8, 5, 10, kMax, Verdict::kBehind, 2},
        Case{"OneBehind", 9, 1, 10, kMax, Verdict::kBehind, 1},
        Case{"OneAhead", 11, 1, 10, kMax, Verdict::kAhead, 0},
        Case{"FarAhead", kMax - 1, 1, 10, kMax, Verdict::kAhead, 0},
        Case{"FillsTheSession", 10, kMax - 10, 10, kMax, Verdict::kFresh, 0},
        Case{"PassesTheSession", 10, kMax - 9, 10, kMax, Verdict::kLength, 0},
        Case{"BeginsBeyondTheSession",
             kMax + 1,
             1,
             10,
             kMax,
             Verdict::kLength,
             0},
        Case{"SumWouldWrap", kLast, 1, 10, kMax, Verdict::kLength, 0},
        Case{"SumWouldWrapToTheEnd",
             kLast - 4,
             15,
             10,
             kLast,
             Verdict::kLength,
             0},
        Case{"LargestSession",
             kLast - 5,
             5,
             kLast - 5,
             kLast,
             Verdict::kFresh,
             0}),
    [](const testing::TestParamInfo<Case>& info) { return info.param.name; });

TEST(EqualTokensTest, CountsUpToTheFirstDifference) {
  const std::vector<uint32_t> log = {1, 2, 3, 4};
  EXPECT_EQ(EqualTokens(std::vector<uint32_t>{1, 2, 3, 4}, log), 4u);
  EXPECT_EQ(EqualTokens(std::vector<uint32_t>{1, 2, 9, 4}, log), 2u);
  EXPECT_EQ(EqualTokens(std::vector<uint32_t>{9}, log), 0u);
  EXPECT_EQ(EqualTokens(std::vector<uint32_t>{1, 2, 3, 4, 5}, log), 4u);
  EXPECT_EQ(EqualTokens(std::vector<uint32_t>{1, 2}, log), 2u);
  EXPECT_EQ(EqualTokens({}, log), 0u);
}

}  // namespace
}  // namespace weir::service
