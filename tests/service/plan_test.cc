// SPDX-License-Identifier: Apache-2.0
#include "service/plan.h"

#include <map>
#include <numeric>
#include <random>
#include <set>
#include <string>

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace weir::service {
namespace {

using testing::ElementsAre;
using Shares = std::vector<std::pair<size_t, int64_t>>;

WaitingRow Prefill(uint64_t key, int64_t tokens) {
  return {.key = key,
          .slot = static_cast<int32_t>(key),
          .tokens = tokens,
          .decode = false};
}

WaitingRow Decode(uint64_t key, int64_t tokens = 1) {
  return {.key = key,
          .slot = static_cast<int32_t>(key),
          .tokens = tokens,
          .decode = true};
}

Shares SharesOf(const StepPlan& plan) {
  Shares shares;
  for (const PlannedRow& row : plan.rows) {
    shares.emplace_back(row.index, row.tokens);
  }
  return shares;
}

struct Case {
  std::string name;
  std::vector<WaitingRow> waiting;
  PlanLimits limits;
  PlanTurn turn;
  Shares rows;  // index and tokens
};

class PlanStepTable : public testing::TestWithParam<Case> {};

TEST_P(PlanStepTable, PlansTheseRows) {
  const Case& given = GetParam();
  EXPECT_EQ(SharesOf(PlanStep(given.waiting, given.limits, given.turn)),
            given.rows);
}

INSTANTIATE_TEST_SUITE_P(
    PlanStepTest,
    PlanStepTable,
    testing::Values(
        Case{"NothingWaits", {}, {256, 512}, {}, {}},
        Case{"OneShortAppendRunsWhole",
             {Prefill(1, 10)},
             {256, 512},
             {},
             {{0, 10}}},
        Case{"OneLongAppendIsCutToTheBudget",
             {Prefill(1, 5000)},
             {256, 512},
             {},
             {{0, 512}}},
        Case{"TwoLongAppendsShareTheBudget",
             {Prefill(1, 5000), Prefill(2, 5000)},
             {256, 512},
             {},
             {{0, 256}, {1, 256}}},
        Case{"WhatAShortOneLeavesGoesToTheLongOne",
             {Prefill(1, 5000), Prefill(2, 12)},
             {256, 512},
             {},
             {{0, 500}, {1, 12}}},
        Case{"DecodeRowsComeFirst",
             {Prefill(1, 5000), Decode(2), Decode(3, 0), Prefill(4, 1)},
             {256, 512},
             {},
             {{1, 1}, {2, 0}, {3, 1}, {0, 509}}},
        Case{"BudgetOfOneGoesToTheDecodeRow",
             {Prefill(1, 5000), Decode(2)},
             {256, 1},
             {},
             {{1, 1}}},
        Case{"BudgetOfOneGoesToThePrefillThatIsOwed",
             {Prefill(1, 5000), Decode(2)},
             {256, 1},
             {.prefill_owed = true},
             {{0, 1}}},
        Case{"OnePlaceGoesToThePrefillThatIsOwed",
             {Prefill(1, 5000), Decode(2)},
             {1, 512},
             {.prefill_owed = true},
             {{0, 512}}},
        Case{"NothingIsKeptForAPrefillThatIsGone",
             {Decode(2)},
             {1, 1},
             {.prefill_owed = true},
             {{0, 1}}},
        Case{"MoreDecodeRowsThanPlaces",
             {Decode(1), Decode(2), Decode(3)},
             {2, 512},
             {},
             {{0, 1}, {1, 1}}},
        Case{"TheTurnGoesOnWhereItStopped",
             {Decode(1), Decode(2), Decode(3)},
             {2, 512},
             {.decode_next = 3},
             {{2, 1}, {0, 1}}},
        Case{"ATurnBeyondTheLastStartsAgain",
             {Prefill(1, 100), Prefill(2, 100)},
             {256, 64},
             {.prefill_next = 9},
             {{0, 64}}},
        Case{"ManyPrefillsAreNotCutBelowTheQuantum",
             {Prefill(1, 900), Prefill(2, 900), Prefill(3, 900)},
             {256, 128},
             {},
             {{0, 64}, {1, 64}}},
        Case{"MorePrefillsThanPlaces",
             {Prefill(1, 900), Prefill(2, 900), Prefill(3, 900)},
             {2, 512},
             {.prefill_next = 2},
             {{1, 256}, {2, 256}}},
        Case{"ASlotStandsOnceAndItsFirstAppendGoes",
             {Prefill(1, 30), Prefill(1, 1), Prefill(2, 5)},
             {256, 512},
             {},
             {{0, 30}, {2, 5}}}),
    [](const testing::TestParamInfo<Case>& info) { return info.param.name; });

TEST(PlanStepTest, OneLongPrefillBlocksNobody) {
  std::vector<WaitingRow> waiting = {Prefill(1, 1'000'000)};
  for (uint64_t key = 2; key < 20; ++key) waiting.push_back(Prefill(key, 60));

  PlanTurn turn;
  std::set<size_t> served;
  for (int step = 0; step < 4; ++step) {
    const StepPlan plan = PlanStep(waiting, {256, 512}, turn);
    turn = plan.turn;
    for (const PlannedRow& row : plan.rows) served.insert(row.index);
  }

  EXPECT_EQ(served.size(), waiting.size());
}

TEST(PlanStepTest, EqualAppendsGetEqualShares) {
  std::vector<WaitingRow> waiting;
  for (uint64_t key = 1; key <= 37; ++key) {
    waiting.push_back(Prefill(key, 1'000'000));
  }

  PlanTurn turn;
  std::map<size_t, int64_t> tokens;
  for (int step = 0; step < 370; ++step) {
    const StepPlan plan = PlanStep(waiting, {256, 512}, turn);
    turn = plan.turn;
    for (const PlannedRow& row : plan.rows) tokens[row.index] += row.tokens;
  }

  ASSERT_EQ(tokens.size(), waiting.size());
  for (const auto& [index, count] : tokens) {
    EXPECT_NEAR(count, 370.0 * 512 / 37, 128) << "row " << index;
  }
}

// Every waiting row is served again and again under any limits, whatever else
// waits: within as many steps as rows wait, and twice that to be owed a place.
TEST(PlanStepTest, NobodyStarves) {
  constexpr uint32_t kSeed = 20240611;
  std::mt19937 random(kSeed);
  for (int round = 0; round < 300; ++round) {
    SCOPED_TRACE("seed " + std::to_string(kSeed) + " round " +
                 std::to_string(round));
    const int rows = 1 + static_cast<int>(random() % 40);
    std::vector<WaitingRow> waiting;
    for (int i = 0; i < rows; ++i) {
      const uint64_t key = 10 + i * (1 + random() % 3) * 100;
      waiting.push_back(random() % 2 == 0 ? Decode(key)
                                          : Prefill(key, 2 + random() % 3000));
    }
    std::sort(waiting.begin(), waiting.end(), [](const auto& a, const auto& b) {
      return a.key < b.key;
    });
    const PlanLimits limits{.rows_max = 1 + static_cast<int>(random() % 8),
                            .tokens_max = 1 + static_cast<int>(random() % 90)};
    const std::set<int32_t> slots = [&] {
      std::set<int32_t> all;
      for (const WaitingRow& row : waiting) all.insert(row.slot);
      return all;
    }();
    PlanTurn turn;
    std::set<int32_t> served;
    for (size_t step = 0; step < 2 * slots.size() + 2; ++step) {
      const StepPlan plan = PlanStep(waiting, limits, turn);
      turn = plan.turn;
      ASSERT_FALSE(plan.rows.empty());
      ASSERT_LE(plan.rows.size(), static_cast<size_t>(limits.rows_max));
      int64_t cost = 0;
      std::set<int32_t> in_step;
      for (const PlannedRow& row : plan.rows) {
        cost += std::max<int64_t>(row.tokens, 1);
        ASSERT_LE(row.tokens, waiting[row.index].tokens);
        ASSERT_TRUE(in_step.insert(waiting[row.index].slot).second);
        served.insert(waiting[row.index].slot);
      }
      ASSERT_LE(cost, limits.tokens_max);
    }
    ASSERT_EQ(served, slots);
  }
}

TEST(PlanStepTest, DecodeAndPrefillTakeTurnsWhenOnlyOneFits) {
  const std::vector<WaitingRow> waiting = {Prefill(1, 5000), Decode(2)};
  PlanTurn turn;
  std::vector<size_t> order;
  for (int step = 0; step < 4; ++step) {
    const StepPlan plan = PlanStep(waiting, {1, 1}, turn);
    turn = plan.turn;
    order.push_back(plan.rows.at(0).index);
  }
  EXPECT_THAT(order, ElementsAre(1, 0, 1, 0));
}

TEST(PlanStepTest, IsAFunctionOfItsArguments) {
  const std::vector<WaitingRow> waiting = {
      Prefill(1, 700), Decode(2), Prefill(5, 90), Decode(7, 0)};
  const PlanTurn turn{.decode_next = 3, .prefill_next = 2};
  EXPECT_EQ(SharesOf(PlanStep(waiting, {3, 100}, turn)),
            SharesOf(PlanStep(waiting, {3, 100}, turn)));
}

}  // namespace
}  // namespace weir::service
