// SPDX-License-Identifier: Apache-2.0
#include "tests/engine/engine_driver.h"

#include <algorithm>
#include <cstdlib>
#include <random>
#include <utility>

#include "base/check.h"
#include "gtest/gtest.h"

namespace weir::engine {

std::unique_ptr<TorchEngine> EngineOn(const std::string& relative,
                                      int32_t slots) {
  auto engine =
      TorchEngine::Create({.model_dir = SourcePath(relative), .slots = slots});
  EXPECT_TRUE(engine.ok()) << engine.status();
  WEIR_CHECK(engine.ok());
  return *std::move(engine);
}

StepResult RunStep(Engine& engine, const Plan& plan) {
  auto ticket = engine.Submit(plan);
  EXPECT_TRUE(ticket.ok()) << ticket.status();
  WEIR_CHECK(ticket.ok());
  auto result = engine.Wait(*ticket);
  EXPECT_TRUE(result.ok()) << result.status();
  WEIR_CHECK(result.ok());
  return *std::move(result);
}

std::vector<float> FeedInPieces(Engine& engine,
                                int32_t slot,
                                std::span<const uint32_t> tokens,
                                size_t piece,
                                uint64_t consumed) {
  std::vector<float> scores;
  while (!tokens.empty()) {
    Row row;
    row.slot = slot;
    row.tokens = tokens.first(std::min(piece, tokens.size()));
    row.first = consumed == 0;
    row.want_scores = true;
    const StepResult result = RunStep(engine, {.rows = {row}});
    EXPECT_TRUE(result.rows[0].finite);
    EXPECT_EQ(result.rows[0].scores.size(), row.tokens.size());
    scores.insert(scores.end(),
                  result.rows[0].scores.begin(),
                  result.rows[0].scores.end());
    consumed += row.tokens.size();
    tokens = tokens.subspan(row.tokens.size());
  }
  return scores;
}

void ExpectSameScores(const std::string& folder,
                      const std::string& other,
                      double error_max) {
  for (const size_t piece : {200, 7}) {
    SCOPED_TRACE(piece);
    std::vector<std::vector<float>> scores;
    for (const std::string& path : {folder, other}) {
      auto engine = TorchEngine::Create({.model_dir = path, .slots = 1});
      ASSERT_TRUE(engine.ok()) << engine.status();
      const auto tokens =
          RandomTokens((*engine)->model().vocabulary, 200, 20261124);
      scores.push_back(
          FeedInPieces(**engine, *(*engine)->AcquireSlot(), tokens, piece));
      ASSERT_EQ(scores.back().size(), tokens.size());
    }
    // The first token has no score.
    for (size_t i = 1; i < scores[0].size(); ++i) {
      ASSERT_NEAR(scores[0][i], scores[1][i], error_max) << "token " << i;
    }
  }
}

std::vector<uint32_t> ContinueGreedily(Engine& engine,
                                       int32_t slot,
                                       size_t count) {
  std::vector<uint32_t> tokens;
  for (size_t i = 0; i < count; ++i) {
    Row row;
    row.slot = slot;
    if (!tokens.empty()) row.tokens = std::span(tokens).last(1);
    row.sample.emplace().temperature = 0;
    const StepResult result = RunStep(engine, {.rows = {row}});
    EXPECT_TRUE(result.rows[0].finite);
    tokens.push_back(result.rows[0].sampled->token);
  }
  return tokens;
}

std::vector<std::byte> Save(Engine& engine, int32_t slot) {
  std::vector<std::byte> host(engine.model().state_bytes);
  const absl::Status status = engine.SaveSlot(slot, host);
  EXPECT_TRUE(status.ok()) << status;
  return host;
}

std::vector<uint32_t> RandomTokens(uint32_t vocabulary,
                                   size_t count,
                                   uint64_t seed) {
  std::mt19937_64 random(seed);
  std::vector<uint32_t> tokens(count);
  for (uint32_t& token : tokens) {
    token = static_cast<uint32_t>(random() % vocabulary);
  }
  return tokens;
}

}  // namespace weir::engine
