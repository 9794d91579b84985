// SPDX-License-Identifier: Apache-2.0
#include "engine/sampling.h"

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <numeric>
#include <random>
#include <set>
#include <vector>

#include "gtest/gtest.h"

namespace weir::engine {
namespace {

constexpr uint64_t kSeed = 20261124;

uint32_t Draw(const std::vector<float>& logits, const Sampling& sampling) {
  SamplingScratch scratch;
  return SampleToken(logits, sampling, scratch);
}

// How often each token is drawn at positions [0, draws).
std::vector<int> Histogram(const std::vector<float>& logits,
                           Sampling sampling,
                           int draws) {
  SamplingScratch scratch;
  std::vector<int> counts(logits.size(), 0);
  sampling.seed = kSeed;
  for (int i = 0; i < draws; ++i) {
    sampling.position = static_cast<uint64_t>(i);
    ++counts[SampleToken(logits, sampling, scratch)];
  }
  return counts;
}

std::set<uint32_t> Support(const std::vector<float>& logits,
                           const Sampling& sampling) {
  const std::vector<int> counts = Histogram(logits, sampling, 20'000);
  std::set<uint32_t> support;
  for (size_t i = 0; i < counts.size(); ++i) {
    if (counts[i] > 0) support.insert(static_cast<uint32_t>(i));
  }
  return support;
}

std::vector<double> Softmax(const std::vector<float>& logits,
                            double temperature) {
  const double high = *std::max_element(logits.begin(), logits.end());
  std::vector<double> out;
  double sum = 0;
  for (const float logit : logits) {
    out.push_back(std::exp((logit - high) / temperature));
    sum += out.back();
  }
  for (double& p : out) p /= sum;
  return out;
}

double ChiSquare(const std::vector<int>& counts,
                 const std::vector<double>& expected,
                 int draws) {
  double sum = 0;
  for (size_t i = 0; i < counts.size(); ++i) {
    const double mean = expected[i] * draws;
    sum += (counts[i] - mean) * (counts[i] - mean) / mean;
  }
  return sum;
}

std::vector<float> RandomLogits(size_t count) {
  std::mt19937 random(kSeed);
  std::normal_distribution<float> normal(0, 1.5f);
  std::vector<float> logits(count);
  for (float& logit : logits) logit = normal(random);
  return logits;
}

TEST(UniformAtTest, IsPhilox4x32WithTenRounds) {
  // Known answer of the generator's authors for counter 0, key 0: the words
  // 6627e8d5 e169c58d ...
  const uint64_t bits = (uint64_t{0xe169c58du} << 32 | 0x6627e8d5u) >> 11;

  EXPECT_EQ(UniformAt(0, 0), static_cast<double>(bits) * 0x1p-53);
}

TEST(UniformAtTest, SpreadsEvenlyOverPositionsAndSeeds) {
  constexpr int kDraws = 100'000;
  std::vector<int> by_position(20, 0);
  std::vector<int> by_seed(20, 0);

  for (uint64_t i = 0; i < kDraws; ++i) {
    const double at_position = UniformAt(kSeed, i);
    const double at_seed = UniformAt(i, 7);
    ASSERT_GE(at_position, 0);
    ASSERT_LT(at_position, 1);
    ++by_position[static_cast<size_t>(at_position * 20)];
    ++by_seed[static_cast<size_t>(at_seed * 20)];
  }

  // 19 degrees of freedom: 43.8 is passed once in a thousand seeds.
  const std::vector<double> even(20, 0.05);
  EXPECT_LT(ChiSquare(by_position, even, kDraws), 43.8);
  EXPECT_LT(ChiSquare(by_seed, even, kDraws), 43.8);
}

TEST(SampleTokenTest, TheSameSeedAndPositionGiveTheSameToken) {
  const std::vector<float> logits = RandomLogits(1000);
  Sampling sampling;
  sampling.seed = 5;
  std::set<uint32_t> tokens;

  for (uint64_t position = 0; position < 100; ++position) {
    sampling.position = position;
    const uint32_t token = Draw(logits, sampling);
    EXPECT_EQ(Draw(logits, sampling), token);
    tokens.insert(token);
  }

  EXPECT_GT(tokens.size(), 50u);
}

TEST(SampleTokenTest, AUsedScratchChangesNothing) {
  const std::vector<float> logits = RandomLogits(500);
  Sampling filtered;
  filtered.top_k = 40;
  filtered.top_p = 0.8f;
  Sampling plain;
  SamplingScratch scratch;

  for (uint64_t position = 0; position < 50; ++position) {
    filtered.position = position;
    plain.position = position;
    EXPECT_EQ(SampleToken(logits, filtered, scratch), Draw(logits, filtered));
    EXPECT_EQ(SampleToken(logits, plain, scratch), Draw(logits, plain));
  }
}

TEST(SampleTokenTest, GreedyTakesTheLowestOfTheMostProbable) {
  Sampling greedy;
  greedy.temperature = 0;
  Sampling denormal;
  denormal.temperature = 1e-45f;

  EXPECT_EQ(Draw({0, 3, 3, 1}, greedy), 1u);
  EXPECT_EQ(Draw({0, 3, 3, 1}, denormal), 1u);
  EXPECT_EQ(Draw({-1e30f, -2e30f}, greedy), 0u);
}

TEST(SampleTokenTest, DrawsFollowTheDistributionAtEachTemperature) {
  const std::vector<float> logits = {0.5f, -1, 2, 0, 1.5f, -0.5f, 1, 0.2f};
  constexpr int kDraws = 100'000;

  for (const float temperature : {0.5f, 1.0f, 2.0f}) {
    Sampling sampling;
    sampling.temperature = temperature;
    const std::vector<int> counts = Histogram(logits, sampling, kDraws);

    // 7 degrees of freedom: 24.3 is passed once in a thousand seeds.
    EXPECT_LT(ChiSquare(counts, Softmax(logits, temperature), kDraws), 24.3)
        << temperature;
  }
}

TEST(SampleTokenTest, FilteredDrawsFollowTheRenormalisedDistribution) {
  const std::vector<float> logits = {0.5f, -1, 2, 0, 1.5f, -0.5f, 1, 0.2f};
  constexpr int kDraws = 100'000;
  Sampling sampling;
  sampling.top_k = 4;

  const std::vector<int> counts = Histogram(logits, sampling, kDraws);

  const std::vector<double> kept = Softmax({0.5f, 2, 1.5f, 1}, 1);
  // 3 degrees of freedom: 16.3 is passed once in a thousand seeds.
  EXPECT_LT(
      ChiSquare({counts[0], counts[2], counts[4], counts[6]}, kept, kDraws),
      16.3);
  EXPECT_EQ(counts[1] + counts[3] + counts[5] + counts[7], 0);
}

TEST(SampleTokenTest, TopKKeepsTheMostProbableAndTheLowestOfEquals) {
  Sampling sampling;
  sampling.top_k = 2;
  EXPECT_EQ(Support({0, 1, 2, 1, 0}, sampling), (std::set<uint32_t>{1, 2}));
  sampling.top_k = 1;
  EXPECT_EQ(Support({0, 1, 2, 1, 0}, sampling), (std::set<uint32_t>{2}));
  sampling.top_k = 50;  // more than there are
  EXPECT_EQ(Support({0, 1, 2, 1, 0}, sampling).size(), 5u);
}

TEST(SampleTokenTest, TopPKeepsTheFewestThatReachIt) {
  // Probabilities 0.5, 0.25, 0.125, 0.125.
  const std::vector<float> logits = {0, std::log(2.0f), std::log(4.0f), 0};
  Sampling sampling;
  sampling.top_p = 0.4f;
  EXPECT_EQ(Support(logits, sampling), (std::set<uint32_t>{2}));
  sampling.top_p = 0.6f;
  EXPECT_EQ(Support(logits, sampling), (std::set<uint32_t>{1, 2}));
  sampling.top_p = 0.8f;
  EXPECT_EQ(Support(logits, sampling), (std::set<uint32_t>{0, 1, 2}));
  sampling.top_p = 1e-9f;
  EXPECT_EQ(Support(logits, sampling), (std::set<uint32_t>{2}));
}

TEST(SampleTokenTest, TopPCountsWithinTheTokensOfTopK) {
  // Of the two kept by top-k, 2/3 and 1/3: 0.6 is reached by the first.
  const std::vector<float> logits = {0, std::log(2.0f), std::log(4.0f), 0};
  Sampling sampling;
  sampling.top_k = 2;
  sampling.top_p = 0.6f;

  EXPECT_EQ(Support(logits, sampling), (std::set<uint32_t>{2}));
}

TEST(SampleTokenTest, TopPLooksBeyondItsFirstSortedPart) {
  const std::vector<float> even(5000, 0.0f);
  Sampling sampling;
  sampling.top_p = 0.5f;

  SamplingScratch scratch;
  for (uint64_t position = 0; position < 2000; ++position) {
    sampling.position = position;
    EXPECT_LT(SampleToken(even, sampling, scratch), 2501u);
  }
  sampling.position = 3;
  sampling.top_p = 0.9999999f;
  EXPECT_LT(SampleToken(even, sampling, scratch), 5000u);
}

TEST(SampleTokenTest, MinPKeepsWhatIsNotFarBelowTheBest) {
  const std::vector<float> logits = {
      0, std::log(2.0f), std::log(4.0f), std::log(0.2f)};
  Sampling sampling;
  sampling.min_p = 0.3f;
  EXPECT_EQ(Support(logits, sampling), (std::set<uint32_t>{1, 2}));
  sampling.min_p = 0.2f;
  EXPECT_EQ(Support(logits, sampling), (std::set<uint32_t>{0, 1, 2}));
  sampling.min_p = 1;
  EXPECT_EQ(Support(logits, sampling), (std::set<uint32_t>{2}));
  sampling.top_k = 3;
  sampling.min_p = 0.3f;
  EXPECT_EQ(Support(logits, sampling), (std::set<uint32_t>{1, 2}));
}

TEST(SampleTokenTest, RepetitionPenaltyTouchesRecentTokensOnceEach) {
  const std::vector<uint32_t> recent = {2, 2, 2, 0, 99};
  Sampling sampling;
  sampling.temperature = 0;
  sampling.repetition_penalty = 2;
  sampling.recent = recent;

  // 4 becomes 2, still the best; three times over it would be 0.5.
  EXPECT_EQ(Draw({0, 1, 4}, sampling), 2u);
  EXPECT_EQ(Draw({0, 3, 4}, sampling), 1u);
  // A negative logit moves away from zero.
  EXPECT_EQ(Draw({-1, -1.5f, -8}, sampling), 1u);
}

TEST(SampleTokenTest, ATinyTemperatureIsNoOverflow) {
  Sampling sampling;
  sampling.temperature = 1e-37f;
  EXPECT_EQ(Draw({1, 2, 3, -100}, sampling), 2u);
  sampling.top_p = 0.5f;
  EXPECT_EQ(Draw({1, 2, 3, -100}, sampling), 2u);
}

TEST(SampleTokenTest, AHugeTemperatureIsNearlyEven) {
  Sampling sampling;
  sampling.temperature = 1e30f;
  EXPECT_EQ(Support({1, 2, 3, -100}, sampling).size(), 4u);
}

TEST(SampleTokenTest, TheNucleusOfALargeVocabularyIsThatOfAFullSort) {
  const std::vector<float> logits = RandomLogits(250'000);
  const std::vector<double> probabilities = Softmax(logits, 1);
  std::vector<uint32_t> order(logits.size());
  std::iota(order.begin(), order.end(), 0u);
  std::sort(order.begin(), order.end(), [&](uint32_t a, uint32_t b) {
    return logits[a] > logits[b];
  });
  Sampling sampling;
  sampling.top_p = 0.02f;
  std::set<uint32_t> nucleus;
  double sum = 0;
  // One more than the nucleus: where it ends is decided in float there.
  for (size_t i = 0; sum < sampling.top_p + 2 * probabilities[order[i]]; ++i) {
    nucleus.insert(order[i]);
    sum += probabilities[order[i]];
  }
  SamplingScratch scratch;

  for (uint64_t position = 0; position < 50; ++position) {
    sampling.position = position;
    EXPECT_TRUE(nucleus.contains(SampleToken(logits, sampling, scratch)));
  }
}

}  // namespace
}  // namespace weir::engine
