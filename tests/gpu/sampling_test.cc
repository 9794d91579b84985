// SPDX-License-Identifier: Apache-2.0
//
// Draws and scores on the GPU against engine/sampling.h and pointwise.h.
#include "engine/kernels/cuda/sampling.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>
#include <numeric>
#include <random>
#include <span>
#include <string>
#include <vector>

#include "engine/kernels/pointwise.h"
#include "engine/sampling.h"
#include "tests/gpu/device_array.h"

namespace weir::gpu {
namespace {

using engine::DrawArgs;
using engine::DrawRow;
using engine::Sampling;

constexpr uint64_t kSeed = 20261201;
constexpr uint32_t kNoToken = 0xfffffff0U;
constexpr float kNoLogProb = 77;
constexpr uint32_t kNoFlag = 9;
constexpr float kInfinity = std::numeric_limits<float>::infinity();
constexpr float kNan = std::numeric_limits<float>::quiet_NaN();

// Rows of logits, and how each is drawn.
struct DrawCase {
  DrawCase(int32_t vocabulary_in, int32_t rows)
      : vocabulary(vocabulary_in),
        logits(int64_t{rows} * vocabulary_in),
        parameters(rows) {
    for (int32_t row = 0; row < rows; ++row) {
      parameters[row].is_active = 1;
      parameters[row].seed = kSeed;
      parameters[row].position = (uint64_t{1} << 33) + row;
    }
  }

  int32_t rows() const { return static_cast<int32_t>(parameters.size()); }
  std::span<float> Row(int32_t row) {
    return {logits.data() + int64_t{row} * vocabulary, size_t(vocabulary)};
  }
  std::span<const float> Row(int32_t row) const {
    return {logits.data() + int64_t{row} * vocabulary, size_t(vocabulary)};
  }
  // Every other row has many equal logits.
  void Fill(uint32_t seed) {
    std::mt19937 random(seed);
    std::normal_distribution<float> normal;
    for (int32_t row = 0; row < rows(); ++row) {
      const float deviation = 0.5F + 0.7F * static_cast<float>(row % 6);
      for (float& x : Row(row)) {
        x = deviation * normal(random);
        if (row % 2 == 1) x = std::round(x * 4) / 4;
      }
    }
  }
  Sampling SamplingOf(int32_t row) const {
    const DrawRow& how = parameters[row];
    return {.temperature = how.temperature,
            .top_k = how.top_k,
            .top_p = how.top_p,
            .min_p = how.min_p,
            .repetition_penalty = how.repetition_penalty,
            .seed = how.seed,
            .position = how.position,
            .recent = {recent.data() + how.recent_begin, how.recent_count}};
  }

  int32_t vocabulary;
  std::vector<float> logits;
  std::vector<DrawRow> parameters;
  std::vector<uint32_t> recent = {0};
  int64_t gap = 0;  // floats between two rows on the device
};

struct Drawn {
  std::vector<uint32_t> tokens;
  std::vector<float> log_probs;
  std::vector<uint32_t> finite;
};

// The case's logits on the device, drawn from as often as one likes.
class DeviceLogits {
 public:
  explicit DeviceLogits(const DrawCase& work)
      : stride_(work.vocabulary + work.gap),
        logits_(std::span<const float>(Spread(work))) {}

  Drawn Draw(const DrawCase& work) const {
    DeviceArray<DrawRow> parameters{std::span<const DrawRow>(work.parameters)};
    DeviceArray<uint32_t> recent{std::span<const uint32_t>(work.recent)};
    const size_t rows = work.parameters.size();
    DeviceArray<uint32_t> tokens{
        std::span<const uint32_t>(std::vector<uint32_t>(rows, kNoToken))};
    DeviceArray<float> log_probs{
        std::span<const float>(std::vector<float>(rows, kNoLogProb))};
    DeviceArray<uint32_t> finite{
        std::span<const uint32_t>(std::vector<uint32_t>(rows, kNoFlag))};
    const DrawArgs args = {.rows = work.rows(),
                           .vocabulary = work.vocabulary,
                           .logits = logits_.data(),
                           .stride = stride_,
                           .parameters = parameters.data(),
                           .recent = recent.data(),
                           .tokens = tokens.data(),
                           .log_probs = log_probs.data(),
                           .finite = finite.data()};
    EXPECT_EQ(engine::DrawTokens(args, nullptr), cudaSuccess);
    Must(cudaDeviceSynchronize(), "draws");
    return {tokens.Get(), log_probs.Get(), finite.Get()};
  }
  std::vector<float> Get() const { return logits_.Get(); }

 private:
  static std::vector<float> Spread(const DrawCase& work) {
    const int64_t stride = work.vocabulary + work.gap;
    std::vector<float> spread(stride * work.rows(), kNan);
    for (int32_t row = 0; row < work.rows(); ++row) {
      std::ranges::copy(work.Row(row), spread.begin() + row * stride);
    }
    return spread;
  }

  int64_t stride_;
  DeviceArray<float> logits_;
};

Drawn DrawOnDevice(const DrawCase& work) {
  return DeviceLogits(work).Draw(work);
}

uint32_t DrawOnHost(const DrawCase& work, int32_t row) {
  engine::SamplingScratch scratch;
  return engine::SampleToken(work.Row(row), work.SamplingOf(row), scratch);
}

// The logits after the row's penalty.
std::vector<float> Penalised(const DrawCase& work, int32_t row) {
  const std::span<const float> raw = work.Row(row);
  std::vector<float> x(raw.begin(), raw.end());
  const Sampling sampling = work.SamplingOf(row);
  for (const uint32_t token : sampling.recent) {
    if (token >= x.size()) continue;
    const float penalty = sampling.repetition_penalty;
    x[token] = raw[token] > 0 ? raw[token] / penalty : raw[token] * penalty;
  }
  return x;
}

// What may be drawn, in the order in which the weights lie end to end, and
// each one's share, in fp64.
struct Order {
  std::vector<uint32_t> tokens;
  std::vector<double> weights;

  size_t PlaceOf(uint32_t token) const {
    return std::ranges::find(tokens, token) - tokens.begin();
  }
};

Order OrderOf(const DrawCase& work, int32_t row) {
  const std::vector<float> x = Penalised(work, row);
  const DrawRow& how = work.parameters[row];
  const float high = *std::ranges::max_element(x);
  Order order;
  order.tokens.resize(x.size());
  std::iota(order.tokens.begin(), order.tokens.end(), 0U);
  if (how.top_k > 0 || how.top_p < 1) {
    std::ranges::stable_sort(
        order.tokens, [&](uint32_t a, uint32_t b) { return x[a] > x[b]; });
  }
  if (how.top_k > 0 && size_t(how.top_k) < order.tokens.size()) {
    order.tokens.resize(how.top_k);
  }
  std::erase_if(order.tokens, [&](uint32_t token) {
    const double weight =
        std::exp((double{x[token]} - double{high}) / how.temperature);
    return weight < how.min_p * (1 - 1e-6) || weight < 0x1p-41;
  });
  double total = 0;
  for (const uint32_t token : order.tokens) {
    order.weights.push_back(
        std::exp((double{x[token]} - double{high}) / how.temperature));
    total += order.weights.back();
  }
  for (double& weight : order.weights) weight /= total;
  return order;
}

struct Mix {
  DrawRow how;
  uint32_t recent = 0;
};

const std::vector<Mix> kMixes = {
    {.how = {}},
    {.how = {.temperature = 0}},
    {.how = {.temperature = 0.7F, .top_k = 50}},
    {.how = {.top_k = 1}},
    {.how = {.top_p = 0.9F}},
    {.how = {.temperature = 1.5F, .top_p = 0.999F}},
    {.how = {.top_k = 40, .top_p = 0.95F}},
    {.how = {.min_p = 0.05F}},
    {.how = {.temperature = 1.5F, .top_k = 20, .min_p = 0.1F}},
    {.how = {.top_k = 1 << 30}},
    {.how = {.top_k = 1 << 30, .top_p = 0.5F}},
    {.how = {.temperature = 4, .top_k = 1000}},
    {.how = {.top_p = 0}},
    {.how = {.top_p = 0.8F, .repetition_penalty = 1.3F}, .recent = 60},
    {.how = {.temperature = 0, .repetition_penalty = 2}, .recent = 1024},
    {.how = {.temperature = 0.3F, .repetition_penalty = 0.8F}, .recent = 9},
    {.how = {.temperature = 0.8F,
             .top_k = 100,
             .top_p = 0.9F,
             .min_p = 0.02F,
             .repetition_penalty = 1.1F},
     .recent = 300},
};

void SetMix(const Mix& mix, uint64_t position, DrawCase& work) {
  std::mt19937 random(static_cast<uint32_t>(position));
  work.recent.assign(1, 0);
  for (DrawRow& how : work.parameters) {
    const uint64_t seed = how.seed;
    how = mix.how;
    how.is_active = 1;
    how.seed = seed;
    how.position = position++;
    how.recent_begin = static_cast<uint32_t>(work.recent.size());
    how.recent_count = mix.recent;
    for (uint32_t i = 0; i < mix.recent; ++i) {
      // Some lie beyond the vocabulary.
      work.recent.push_back(static_cast<uint32_t>(
          random() % static_cast<uint32_t>(work.vocabulary + 2)));
    }
  }
}

struct Agreement {
  int draws = 0;
  int others = 0;  // tokens that are not the host's
};

void Compare(const DrawCase& work, const Drawn& got, Agreement& agreement) {
  for (int32_t row = 0; row < work.rows(); ++row) {
    ++agreement.draws;
    ASSERT_EQ(got.finite[row], 1U);
    const uint32_t want = DrawOnHost(work, row);
    const uint32_t token = got.tokens[row];
    ASSERT_LT(token, static_cast<uint32_t>(work.vocabulary));
    float score = 0;
    engine::LogProbabilities(
        work.Row(row).data(), &token, work.vocabulary, &score, 0, 1);
    EXPECT_NEAR(got.log_probs[row], score, 2e-6 * std::max(1.0F, -score));
    if (token == want) continue;
    ++agreement.others;
    ASSERT_GT(work.parameters[row].temperature, 0);
    ASSERT_NE(work.parameters[row].top_k, 1);
    const Order order = OrderOf(work, row);
    const auto a = static_cast<int64_t>(order.PlaceOf(token));
    const auto b = static_cast<int64_t>(order.PlaceOf(want));
    EXPECT_EQ(std::abs(a - b), 1)
        << "row " << row << ": " << token << ", " << want;
  }
}

TEST(DrawTokensTest, DrawsWhatTheHostDraws) {
  Agreement agreement;
  for (const auto& [vocabulary, rows] : {std::pair{1, 6},
                                         {2, 400},
                                         {33, 400},
                                         {256, 400},
                                         {4097, 100},
                                         {32'000, 80},
                                         {151'936, 36}}) {
    DrawCase work(vocabulary, rows);
    work.gap = vocabulary % 7;
    work.Fill(static_cast<uint32_t>(vocabulary));
    const DeviceLogits logits(work);
    const Agreement before = agreement;
    for (size_t mix = 0; mix < kMixes.size(); ++mix) {
      SCOPED_TRACE(testing::Message() << vocabulary << ", mix " << mix);
      SetMix(kMixes[mix], mix << 34, work);
      Compare(work, logits.Draw(work), agreement);
      if (HasFatalFailure()) return;
    }
    std::printf("vocabulary %d: %d draws, %d beside the host's\n",
                vocabulary,
                agreement.draws - before.draws,
                agreement.others - before.others);
  }
  EXPECT_LE(agreement.others, agreement.draws / 1000);
}

TEST(DrawTokensTest, DrawsFromTheLargestVocabulary) {
  DrawCase work(engine::kDrawVocabularyMax, 2);
  work.Fill(5);
  const DeviceLogits logits(work);
  Agreement agreement;
  for (const size_t mix : {size_t{0}, size_t{6}, size_t{16}}) {
    SetMix(kMixes[mix], 7, work);
    Compare(work, logits.Draw(work), agreement);
  }
  EXPECT_LE(agreement.others, 1);
}

TEST(DrawTokensTest, TheMostProbableIsExactAndTheLowestAmongEquals) {
  DrawCase work(70'000, 4);
  work.Fill(3);
  for (const int32_t token : {69'999, 40'000, 31'000}) work.Row(0)[token] = 50;
  std::ranges::fill(work.Row(1), -3.0F);
  std::ranges::fill(work.Row(2), -0.0F);
  work.Row(2)[60'000] = 0.0F;
  work.Row(3)[123] = 1000;
  for (const float temperature : {0.0F, 1e-40F, -1.0F}) {
    for (DrawRow& how : work.parameters) how.temperature = temperature;
    EXPECT_THAT(DrawOnDevice(work).tokens,
                testing::ElementsAre(31'000, 0, 0, 123));
  }
  for (DrawRow& how : work.parameters) {
    how.temperature = 1;
    how.top_k = 1;
  }
  EXPECT_THAT(DrawOnDevice(work).tokens,
              testing::ElementsAre(31'000, 0, 0, 123));
}

TEST(DrawTokensTest, EqualLogitsAreTakenByTheirIds) {
  DrawCase work(10'000, 200);
  std::ranges::fill(work.logits, 1.5F);
  for (DrawRow& how : work.parameters) how.top_k = 7;
  const Drawn got = DrawOnDevice(work);
  for (int32_t row = 0; row < work.rows(); ++row) {
    EXPECT_EQ(got.tokens[row], DrawOnHost(work, row));
    EXPECT_LT(got.tokens[row], 7U);
  }
}

TEST(DrawTokensTest, NothingOutsideOfTheFiltersIsDrawn) {
  DrawCase work(5'000, 300);
  work.Fill(8);
  for (const Mix& mix : kMixes) {
    if (mix.how.temperature == 0) continue;
    SetMix(mix, 99, work);
    const Drawn got = DrawOnDevice(work);
    for (int32_t row = 0; row < work.rows(); ++row) {
      const Order order = OrderOf(work, row);
      const size_t place = order.PlaceOf(got.tokens[row]);
      ASSERT_LT(place, order.tokens.size());
      if (mix.how.top_p >= 1 || mix.how.min_p > 0) continue;
      const double before = std::accumulate(
          order.weights.begin(), order.weights.begin() + place, 0.0);
      EXPECT_LE(before, mix.how.top_p + 1e-6);
    }
  }
}

TEST(DrawTokensTest, FollowsTheDistribution) {
  constexpr int kDraws = 30'000;
  for (const float top_p : {1.0F, 0.9999F}) {
    DrawCase work(6, kDraws);
    const std::vector<float> logits = {0.3F, -1.2F, 2, 1.1F, -0.4F, 0.3F};
    for (int32_t row = 0; row < kDraws; ++row) {
      std::ranges::copy(logits, work.Row(row).begin());
      work.parameters[row].top_p = top_p;
    }
    std::vector<int> counts(logits.size());
    for (const uint32_t token : DrawOnDevice(work).tokens) ++counts[token];
    double total = 0;
    for (const float x : logits) total += std::exp(double{x});
    double chi_square = 0;
    for (size_t i = 0; i < logits.size(); ++i) {
      const double mean = kDraws * std::exp(double{logits[i]}) / total;
      chi_square += (counts[i] - mean) * (counts[i] - mean) / mean;
    }
    // 5 degrees of freedom: passed once in a thousand seeds.
    EXPECT_LT(chi_square, 20.5);
  }
}

TEST(DrawTokensTest, ARowThatIsNotFiniteIsFlaggedAndLeavesTheOthers) {
  for (const int32_t vocabulary : {50, 40'000}) {
    DrawCase work(vocabulary, 6);
    work.Fill(4);
    SetMix(kMixes[16], 3, work);
    const Drawn clean = DrawOnDevice(work);
    work.Row(1)[vocabulary - 1] = kNan;
    work.Row(2)[0] = kInfinity;
    work.Row(4)[vocabulary / 2] = -kInfinity;
    const Drawn marked = DrawOnDevice(work);
    EXPECT_THAT(marked.finite, testing::ElementsAre(1, 0, 0, 1, 0, 1));
    for (const int32_t row : {1, 2, 4}) {
      EXPECT_EQ(marked.tokens[row], kNoToken);
      EXPECT_EQ(marked.log_probs[row], kNoLogProb);
    }
    for (const int32_t row : {0, 3, 5}) {
      EXPECT_EQ(marked.tokens[row], clean.tokens[row]);
      EXPECT_EQ(marked.log_probs[row], clean.log_probs[row]);
    }
  }
}

TEST(DrawTokensTest, APenaltyThatOverflowsIsNotFinite) {
  DrawCase work(100, 1);
  work.Row(0)[7] = 1e38F;
  work.recent = {7};
  work.parameters[0].recent_count = 1;
  work.parameters[0].repetition_penalty = 0.1F;
  EXPECT_THAT(DrawOnDevice(work).finite, testing::ElementsAre(0));
}

TEST(DrawTokensTest, NeighboursAndPlaceDoNotMatter) {
  for (const int32_t vocabulary : {200, 50'000}) {
    DrawCase together(vocabulary, 40);
    together.Fill(6);
    together.gap = 3;
    for (const Mix& mix : kMixes) {
      SetMix(mix, 1000, together);
      const Drawn all = DrawOnDevice(together);
      DrawCase alone(vocabulary, 1);
      std::ranges::copy(together.Row(29), alone.logits.begin());
      alone.parameters = {together.parameters[29]};
      alone.recent = together.recent;
      const Drawn one = DrawOnDevice(alone);
      EXPECT_EQ(one.tokens[0], all.tokens[29]);
      EXPECT_EQ(one.log_probs[0], all.log_probs[29]);
    }
  }
}

TEST(DrawTokensTest, InactiveRowsAreSkippedAndLogitsLeftAsTheyAre) {
  DrawCase work(40'000, 5);
  work.Fill(2);
  SetMix(kMixes[16], 3, work);
  const DeviceLogits logits(work);
  const Drawn all = logits.Draw(work);
  work.parameters[0].is_active = 0;
  work.parameters[3].is_active = 0;
  const Drawn some = logits.Draw(work);
  for (const int32_t row : {0, 3}) {
    EXPECT_EQ(some.tokens[row], kNoToken);
    EXPECT_EQ(some.log_probs[row], kNoLogProb);
    EXPECT_EQ(some.finite[row], kNoFlag);
  }
  for (const int32_t row : {1, 2, 4}) {
    EXPECT_EQ(some.tokens[row], all.tokens[row]);
  }
  EXPECT_EQ(logits.Get(), work.logits);
}

TEST(DrawTokensTest, ACapturedDrawReadsItsParametersAtEachReplay) {
  DrawCase work(20'000, 8);
  work.Fill(12);
  SetMix(kMixes[6], 0, work);
  DeviceArray<float> logits{std::span<const float>(work.logits)};
  DeviceArray<DrawRow> parameters{std::span<const DrawRow>(work.parameters)};
  DeviceArray<uint32_t> tokens(8);
  DeviceArray<uint32_t> finite(8);
  DeviceArray<float> log_probs(8);
  const DrawArgs args = {.rows = 8,
                         .vocabulary = work.vocabulary,
                         .logits = logits.data(),
                         .stride = work.vocabulary,
                         .parameters = parameters.data(),
                         .tokens = tokens.data(),
                         .log_probs = log_probs.data(),
                         .finite = finite.data()};
  cudaStream_t stream;
  cudaGraph_t graph;
  cudaGraphExec_t exec;
  Must(cudaStreamCreate(&stream), "stream");
  Must(cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal),
       "capture");
  ASSERT_EQ(engine::DrawTokens(args, stream), cudaSuccess);
  Must(cudaStreamEndCapture(stream, &graph), "end of capture");
  Must(cudaGraphInstantiate(&exec, graph, 0), "graph");
  for (const size_t mix : {6, 0, 4}) {
    SetMix(kMixes[mix], mix, work);
    parameters.Set(work.parameters);
    Must(cudaGraphLaunch(exec, stream), "launch");
    Must(cudaStreamSynchronize(stream), "replay");
    EXPECT_EQ(tokens.Get(), DrawOnDevice(work).tokens);
  }
  cudaGraphExecDestroy(exec);
  cudaGraphDestroy(graph);
  cudaStreamDestroy(stream);
}

TEST(DrawTokensTest, RefusesWhatItDoesNotTake) {
  EXPECT_EQ(engine::DrawTokens({.rows = 1}, nullptr), cudaErrorInvalidValue);
  EXPECT_EQ(
      engine::DrawTokens({.rows = 1, .vocabulary = 8, .stride = 7}, nullptr),
      cudaErrorInvalidValue);
  EXPECT_EQ(engine::DrawTokens({.rows = 1,
                                .vocabulary = engine::kDrawVocabularyMax + 1,
                                .stride = 1 << 23},
                               nullptr),
            cudaErrorInvalidValue);
  EXPECT_EQ(engine::DrawTokens({.vocabulary = 8, .stride = 8}, nullptr),
            cudaSuccess);
}

std::vector<float> ScoresOnDevice(const DrawCase& work,
                                  const std::vector<uint32_t>& targets) {
  const int64_t stride = work.vocabulary + work.gap;
  std::vector<float> spread(stride * work.rows(), kNan);
  for (int32_t row = 0; row < work.rows(); ++row) {
    std::ranges::copy(work.Row(row), spread.begin() + row * stride);
  }
  DeviceArray<float> logits{std::span<const float>(spread)};
  DeviceArray<uint32_t> wanted{std::span<const uint32_t>(targets)};
  DeviceArray<float> scores(targets.size());
  EXPECT_EQ(engine::TokenScores({.rows = work.rows(),
                                 .vocabulary = work.vocabulary,
                                 .logits = logits.data(),
                                 .stride = stride,
                                 .targets = wanted.data(),
                                 .scores = scores.data()},
                                nullptr),
            cudaSuccess);
  Must(cudaDeviceSynchronize(), "scores");
  return scores.Get();
}

TEST(TokenScoresTest, EqualTheHosts) {
  for (const int32_t vocabulary : {1, 2, 33, 8'192, 32'000, 151'936}) {
    for (const int64_t gap : {0, 1, 4}) {
      DrawCase work(vocabulary, 12);
      work.gap = gap;
      work.Fill(static_cast<uint32_t>(vocabulary));
      for (float& x : work.Row(0)) x += 60;
      std::vector<uint32_t> targets(12);
      for (int32_t row = 0; row < 12; ++row) {
        targets[row] = static_cast<uint32_t>(row * 104'729 % vocabulary);
      }
      targets[5] = static_cast<uint32_t>(vocabulary);
      work.Row(6)[vocabulary - 1] = kNan;
      work.Row(7)[0] = kInfinity;
      work.Row(8)[vocabulary / 2] = -kInfinity;
      const std::vector<float> got = ScoresOnDevice(work, targets);
      std::vector<float> want(12);
      engine::LogProbabilities(
          work.logits.data(), targets.data(), vocabulary, want.data(), 0, 12);
      for (int32_t row = 0; row < 12; ++row) {
        SCOPED_TRACE(testing::Message() << vocabulary << ", row " << row);
        if (row >= 5 && row <= 8) {
          EXPECT_TRUE(std::isnan(got[row]));
          EXPECT_TRUE(std::isnan(want[row]));
        } else {
          EXPECT_NEAR(got[row], want[row], 2e-6 * std::max(1.0F, -want[row]));
        }
      }
    }
  }
}

}  // namespace
}  // namespace weir::gpu
