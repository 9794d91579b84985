// SPDX-License-Identifier: Apache-2.0
#include "store/memory_store.h"

#include <cmath>
#include <numeric>
#include <optional>

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace weir::store {
namespace {

using service::Durability;
using service::LogRecord;
using service::LogSlice;
using testing::ElementsAre;
using testing::FloatEq;
using testing::IsNan;

std::vector<uint32_t> Numbers(uint32_t from, uint32_t count) {
  std::vector<uint32_t> numbers(count);
  std::iota(numbers.begin(), numbers.end(), from);
  return numbers;
}

class MemoryStoreTest : public testing::Test {
 protected:
  absl::Status Commit(std::vector<LogRecord> records,
                      Durability durability = Durability::kApplied) {
    absl::Status result = absl::UnknownError("not answered");
    store_.Commit(std::move(records), durability, [&](absl::Status status) {
      result = std::move(status);
    });
    return result;
  }
  absl::StatusOr<LogSlice> Read(const std::string& id,
                                uint64_t position,
                                uint64_t count) {
    absl::StatusOr<LogSlice> result = absl::UnknownError("not answered");
    store_.Read(id, position, count, [&](absl::StatusOr<LogSlice> slice) {
      result = std::move(slice);
    });
    return result;
  }
  std::vector<uint32_t> Tokens(const std::string& id) {
    return Read(id, 0, 1'000'000)->tokens;
  }

  MemoryStore store_;
};

TEST_F(MemoryStoreTest, SupportsAppliedAndNothingBetter) {
  EXPECT_TRUE(store_.Supports(Durability::kApplied));
  EXPECT_FALSE(store_.Supports(Durability::kLocal));
  EXPECT_FALSE(store_.Supports(Durability::kShared));
  ASSERT_TRUE(store_.Create("a").ok());
  EXPECT_FALSE(Commit({{"a", 0, {1}}}, Durability::kLocal).ok());
  EXPECT_TRUE(Tokens("a").empty());
}

TEST_F(MemoryStoreTest, SecondCreateOfAnIdIsRefused) {
  ASSERT_TRUE(store_.Create("a").ok());
  EXPECT_EQ(store_.Create("a").code(), absl::StatusCode::kAlreadyExists);
}

TEST_F(MemoryStoreTest, ReadsBackAcrossBlocks) {
  ASSERT_TRUE(store_.Create("a").ok());
  ASSERT_TRUE(Commit({{"a", 0, Numbers(0, 1000)}}).ok());
  ASSERT_TRUE(Commit({{"a", 1000, Numbers(1000, 3000)}}).ok());

  EXPECT_EQ(Tokens("a"), Numbers(0, 4000));
  const auto slice = Read("a", 1020, 10);
  EXPECT_EQ(slice->position, 1020u);
  EXPECT_EQ(slice->tokens, Numbers(1020, 10));
  EXPECT_EQ(slice->scores.size(), 10u);
}

TEST_F(MemoryStoreTest, ReadBeyondTheEndGivesWhatThereIs) {
  ASSERT_TRUE(store_.Create("a").ok());
  ASSERT_TRUE(Commit({{"a", 0, {1, 2, 3}}}).ok());

  EXPECT_THAT(Read("a", 2, ~uint64_t{0})->tokens, ElementsAre(3));
  EXPECT_TRUE(Read("a", 3, 1)->tokens.empty());
  EXPECT_TRUE(Read("a", ~uint64_t{0}, 5)->tokens.empty());
  EXPECT_EQ(Read("b", 0, 1).status().code(), absl::StatusCode::kNotFound);
}

TEST_F(MemoryStoreTest, CommitIsAllOrNone) {
  ASSERT_TRUE(store_.Create("a").ok());
  ASSERT_TRUE(store_.Create("b").ok());

  EXPECT_FALSE(Commit({{"a", 0, {1}}, {"b", 1, {2}}}).ok());
  EXPECT_FALSE(Commit({{"a", 0, {1}}, {"c", 0, {2}}}).ok());
  EXPECT_TRUE(Tokens("a").empty());

  EXPECT_TRUE(Commit({{"a", 0, {1}}, {"b", 0, {2}}, {"a", 1, {3}}}).ok());
  EXPECT_THAT(Tokens("a"), ElementsAre(1, 3));
}

TEST_F(MemoryStoreTest, ScoresStandBesideTheirTokensAndNowhereElse) {
  ASSERT_TRUE(store_.Create("a").ok());
  ASSERT_TRUE(Commit({{"a", 0, Numbers(0, 1030)}}).ok());

  store_.PutScores({"a", 1022, {-1, -2, -3}});

  EXPECT_THAT(
      Read("a", 1021, 5)->scores,
      ElementsAre(IsNan(), FloatEq(-1), FloatEq(-2), FloatEq(-3), IsNan()));
}

TEST_F(MemoryStoreTest, ScoresBeyondTheEndAreDropped) {
  ASSERT_TRUE(store_.Create("a").ok());
  ASSERT_TRUE(Commit({{"a", 0, {1, 2}}}).ok());

  store_.PutScores({"a", 1, {-1, -2}});
  store_.PutScores({"a", 5, {-3}});
  store_.PutScores({"nobody", 0, {-3}});
  ASSERT_TRUE(Commit({{"a", 2, {3}}}).ok());

  EXPECT_THAT(Read("a", 0, 3)->scores,
              ElementsAre(IsNan(), FloatEq(-1), IsNan()));
}

TEST_F(MemoryStoreTest, ForkAndOriginalGoTheirOwnWays) {
  ASSERT_TRUE(store_.Create("a").ok());
  ASSERT_TRUE(Commit({{"a", 0, Numbers(0, 1500)}}).ok());
  store_.PutScores({"a", 1100, {-1, -2}});

  ASSERT_TRUE(store_.Fork("a", 1101, "b").ok());
  ASSERT_TRUE(Commit({{"b", 1101, {7, 8}}, {"a", 1500, {9}}}).ok());
  store_.PutScores({"b", 1102, {-5}});

  EXPECT_EQ(Tokens("a").size(), 1501u);
  EXPECT_EQ(Tokens("a")[1101], 1101u);
  EXPECT_EQ(Tokens("b").size(), 1103u);
  EXPECT_EQ(Tokens("b")[1101], 7u);
  EXPECT_THAT(Read("b", 1100, 3)->scores,
              ElementsAre(FloatEq(-1), IsNan(), FloatEq(-5)));
  EXPECT_THAT(Read("a", 1100, 3)->scores,
              ElementsAre(FloatEq(-1), FloatEq(-2), IsNan()));
}

TEST_F(MemoryStoreTest, ForkOutlivesItsOriginal) {
  ASSERT_TRUE(store_.Create("a").ok());
  ASSERT_TRUE(Commit({{"a", 0, Numbers(0, 2000)}}).ok());
  ASSERT_TRUE(store_.Fork("a", 2000, "b").ok());

  store_.Erase("a");

  EXPECT_EQ(Tokens("b"), Numbers(0, 2000));
  EXPECT_FALSE(Read("a", 0, 1).ok());
}

TEST_F(MemoryStoreTest, ForkOfWhatIsNotThereIsRefused) {
  ASSERT_TRUE(store_.Create("a").ok());
  ASSERT_TRUE(store_.Create("b").ok());

  EXPECT_FALSE(store_.Fork("a", 1, "c").ok());
  EXPECT_FALSE(store_.Fork("nobody", 0, "c").ok());
  EXPECT_FALSE(store_.Fork("a", 0, "b").ok());
  EXPECT_FALSE(Read("c", 0, 1).ok());
}

TEST_F(MemoryStoreTest, CostsFourBytesATokenAndEightWithItsScore) {
  ASSERT_TRUE(store_.Create("a").ok());
  EXPECT_EQ(store_.MemoryBytes(), 0u);

  ASSERT_TRUE(Commit({{"a", 0, Numbers(0, 102'400)}}).ok());
  EXPECT_EQ(store_.MemoryBytes(), 409'600u);
  store_.PutScores({"a", 0, std::vector<float>(51'200, -1)});
  EXPECT_EQ(store_.MemoryBytes(), 614'400u);

  ASSERT_TRUE(store_.Fork("a", 102'400, "b").ok());
  EXPECT_EQ(store_.MemoryBytes(), 614'400u);
  ASSERT_TRUE(Commit({{"b", 102'400, {1}}}).ok());
  EXPECT_EQ(store_.MemoryBytes(), 618'496u);

  store_.Erase("a");
  store_.Erase("b");
  EXPECT_EQ(store_.MemoryBytes(), 0u);
}

}  // namespace
}  // namespace weir::store
