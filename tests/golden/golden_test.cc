// SPDX-License-Identifier: Apache-2.0
//
// Checkpoints and what other people's code computes from them.
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <tuple>
#include <vector>

#include "engine/model/model.h"
#include "engine/state/state_pool.h"
#include "gtest/gtest.h"
#include "tests/engine/engine_driver.h"
#include "tests/golden/golden_file.h"

namespace weir::golden {
namespace {

using engine::Batch;
using engine::IsShortRow;
using engine::Model;
using engine::StatePool;

// Logits of std 2; the same weights in fp32 and in fp64 differ by 3e-5.
constexpr double kLogitTolerance = 1e-3;
constexpr double kScoreTolerance = 2e-3;
constexpr double kBitsPerByteTolerance = 2e-4;
constexpr size_t kWhole = 1 << 20;

// The logits after each token of `tokens`, fed in rows of `piece`, row p of
// the result predicting token p + 1.
std::vector<float> AllLogits(const std::string& folder,
                             const std::vector<uint32_t>& tokens,
                             size_t piece) {
  auto model =
      Model::Load(engine::SourcePath(folder), {.pass_tokens_max = 1024});
  EXPECT_TRUE(model.ok()) << model.status();
  if (!model.ok()) return {};
  auto pool = StatePool::Create((*model)->state_spec(), {.slots = 1});
  EXPECT_TRUE(pool.ok()) << pool.status();
  const int32_t slot = *(*pool)->Acquire();
  const size_t vocabulary = (*model)->info().vocabulary;
  std::vector<float> logits(tokens.size() * vocabulary);
  for (size_t begin = 0; begin < tokens.size(); begin += piece) {
    const size_t count = std::min(piece, tokens.size() - begin);
    const int32_t row_starts[] = {0, static_cast<int32_t>(count)};
    const Batch batch = {.rows = 1,
                         .tokens = static_cast<int64_t>(count),
                         .row_starts = row_starts,
                         .slots = &slot,
                         .short_rows = IsShortRow(row_starts[1]) ? 1 : 0};
    const float* outputs =
        (*model)->Forward(batch, tokens.data() + begin, **pool);
    (*model)->Logits(outputs,
                     static_cast<int64_t>(count),
                     logits.data() + begin * vocabulary);
  }
  return logits;
}

using FamilyCase = std::tuple<std::string, size_t>;

class GoldenFamilyTest : public testing::TestWithParam<FamilyCase> {
 protected:
  std::string folder() const {
    return "tests/golden/" + std::get<0>(GetParam());
  }
  size_t piece() const { return std::get<1>(GetParam()); }
  Golden golden() const {
    return ReadGolden(engine::SourcePath(folder() + "/golden.safetensors"));
  }
};

TEST_P(GoldenFamilyTest, LogitsAreThoseOfTheAuthorsCode) {
  const Golden expected = golden();
  ASSERT_FALSE(expected.tokens.empty());

  const std::vector<float> logits =
      AllLogits(folder(), expected.tokens, piece());

  const auto vocabulary = static_cast<size_t>(expected.vocabulary);
  ASSERT_EQ(logits.size(), expected.tokens.size() * vocabulary);
  double worst = 0;
  for (size_t i = 0; i < expected.positions.size(); ++i) {
    const auto position = static_cast<size_t>(expected.positions[i]);
    for (size_t v = 0; v < vocabulary; ++v) {
      const double error = std::abs(logits[position * vocabulary + v] -
                                    expected.logits[i * vocabulary + v]);
      // Not std::max, which a NaN would pass through.
      if (!(error <= worst)) worst = error;
    }
  }
  RecordProperty("worst_logit_error", std::to_string(worst));
  EXPECT_LE(worst, kLogitTolerance);
}

TEST_P(GoldenFamilyTest, ScoresAreThoseOfTheAuthorsLogits) {
  const Golden expected = golden();
  ASSERT_FALSE(expected.tokens.empty());
  auto engine = engine::EngineOn(folder(), 1);
  const int32_t slot = *engine->AcquireSlot();

  const std::vector<float> scores =
      engine::FeedInPieces(*engine, slot, expected.tokens, piece());

  EXPECT_TRUE(std::isnan(scores[0]));
  size_t compared = 0;
  for (size_t i = 0; i < expected.positions.size(); ++i) {
    const auto next = static_cast<size_t>(expected.positions[i]) + 1;
    if (next == scores.size()) continue;
    EXPECT_NEAR(scores[next],
                expected.LogProbability(i, expected.tokens[next]),
                kLogitTolerance)
        << "token " << next;
    ++compared;
  }
  EXPECT_GE(compared, expected.positions.size() - 1);
}

TEST_P(GoldenFamilyTest, ContinuesAsTheAuthorsCodeDoes) {
  const Golden expected = golden();
  ASSERT_FALSE(expected.greedy.empty());
  ASSERT_EQ(expected.greedy_margin.size(), expected.greedy.size());
  auto engine = engine::EngineOn(folder(), 1);
  const int32_t slot = *engine->AcquireSlot();
  engine::FeedInPieces(*engine, slot, expected.tokens, piece());

  const std::vector<uint32_t> tokens =
      engine::ContinueGreedily(*engine, slot, expected.greedy.size());

  // Beyond a near tie the two may rightly part.
  size_t compared = 0;
  while (compared < tokens.size() &&
         expected.greedy_margin[compared] >= 10 * kLogitTolerance) {
    EXPECT_EQ(tokens[compared], expected.greedy[compared])
        << "token " << compared << " of the continuation";
    ++compared;
  }
  EXPECT_GE(compared, 4u);
}

INSTANTIATE_TEST_SUITE_P(
    Families,
    GoldenFamilyTest,
    testing::Combine(
        testing::ValuesIn(GoldenFolders(engine::SourcePath("tests/golden"))),
        testing::Values(kWhole, 256, 100, 7, 1)),
    [](const testing::TestParamInfo<FamilyCase>& info) {
      const size_t piece = std::get<1>(info.param);
      return std::get<0>(info.param) + "_in_" +
             (piece == kWhole ? "one_row" : "rows_of_" + std::to_string(piece));
    });

TEST(GoldenFoldersTest, NoneHasGoneAstray) {
  EXPECT_GE(GoldenFolders(engine::SourcePath("tests/golden")).size(), 19u);
}

struct DemoCase {
  const char* name;
  size_t piece;
  size_t tokens;
};

class GoldenDemoTest : public testing::TestWithParam<DemoCase> {};

TEST_P(GoldenDemoTest, ScoresAndBitsPerByteAreThoseOfTheFp64Forward) {
  const Golden expected =
      ReadGolden(engine::SourcePath("models/demo/golden.safetensors"));
  ASSERT_FALSE(expected.tokens.empty());
  auto engine = engine::EngineOn("models/demo", 1);
  const int32_t slot = *engine->AcquireSlot();
  const auto tokens =
      std::span<const uint32_t>(expected.tokens)
          .first(std::min(GetParam().tokens, expected.tokens.size()));

  const std::vector<float> scores =
      engine::FeedInPieces(*engine, slot, tokens, GetParam().piece);

  ASSERT_EQ(scores.size(), tokens.size());
  double sum = 0;
  double expected_sum = 0;
  for (size_t i = 1; i < scores.size(); ++i) {
    const double score = expected.LogProbability(i - 1, tokens[i]);
    ASSERT_NEAR(scores[i], score, kScoreTolerance) << "token " << i;
    sum += scores[i];
    expected_sum += score;
  }
  const double bytes = static_cast<double>(tokens.size() - 1);
  EXPECT_NEAR(sum / bytes / std::log(2.0),
              expected_sum / bytes / std::log(2.0),
              kBitsPerByteTolerance);
}

INSTANTIATE_TEST_SUITE_P(Rows,
                         GoldenDemoTest,
                         testing::Values(DemoCase{"one_row", kWhole, kWhole},
                                         DemoCase{"rows_of_256", 256, kWhole},
                                         DemoCase{"rows_of_7", 7, kWhole},
                                         DemoCase{"rows_of_1", 1, 300}),
                         [](const testing::TestParamInfo<DemoCase>& info) {
                           return info.param.name;
                         });

}  // namespace
}  // namespace weir::golden
