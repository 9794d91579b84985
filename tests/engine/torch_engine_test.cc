// SPDX-License-Identifier: Apache-2.0
#include "engine/torch_engine.h"

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <limits>
#include <memory>
#include <random>
#include <span>
#include <string>
#include <vector>

#include "gtest/gtest.h"
#include "tests/engine/engine_driver.h"

namespace weir::engine {
namespace {

constexpr uint64_t kSeed = 20261124;
constexpr double kScoreTolerance = 1e-4;  // published in docs/numerics.md

void ExpectNear(const std::vector<float>& actual,
                const std::vector<float>& expected) {
  ASSERT_EQ(actual.size(), expected.size());
  for (size_t i = 0; i < actual.size(); ++i) {
    if (std::isnan(expected[i])) {
      EXPECT_TRUE(std::isnan(actual[i])) << "token " << i;
    } else {
      ASSERT_NEAR(actual[i], expected[i], kScoreTolerance) << "token " << i;
    }
  }
}

// Bits, so that NaN equals itself.
std::vector<uint32_t> Bits(const std::vector<float>& values) {
  std::vector<uint32_t> bits(values.size());
  std::memcpy(bits.data(), values.data(), values.size() * sizeof(float));
  return bits;
}

class TorchEngineTest : public testing::TestWithParam<const char*> {
 protected:
  std::unique_ptr<TorchEngine> MakeEngine(int32_t slots) const {
    return EngineOn(GetParam(), slots);
  }
  std::vector<uint32_t> Document(const Engine& engine,
                                 size_t count,
                                 uint64_t seed = kSeed) const {
    return RandomTokens(engine.model().vocabulary, count, seed);
  }
};

INSTANTIATE_TEST_SUITE_P(Models,
                         TorchEngineTest,
                         testing::Values("tests/golden/mamba2",
                                         "tests/golden/mamba2_limit",
                                         "tests/golden/fla_gated_deltanet",
                                         "models/demo"),
                         [](const testing::TestParamInfo<const char*>& info) {
                           const std::string path = info.param;
                           return path.substr(path.rfind('/') + 1);
                         });

TEST_P(TorchEngineTest, AnySplitOfADocumentGivesTheSameScores) {
  auto engine = MakeEngine(2);
  const auto document = Document(*engine, 400);
  const int32_t whole = *engine->AcquireSlot();
  const std::vector<float> expected =
      FeedInPieces(*engine, whole, document, document.size());
  EXPECT_TRUE(std::isnan(expected[0]));

  std::mt19937_64 random(kSeed);
  for (int split = 0; split < 4; ++split) {
    const int32_t slot = *engine->AcquireSlot();
    std::vector<float> scores;
    while (scores.size() < document.size()) {
      // Small and large rows, and those around the form's threshold.
      const size_t piece = split == 0 ? 1 + random() % 20 : 1 + random() % 150;
      const auto rest = std::span(document).subspan(scores.size());
      const auto part = FeedInPieces(*engine,
                                     slot,
                                     rest.first(std::min(piece, rest.size())),
                                     piece,
                                     scores.size());
      scores.insert(scores.end(), part.begin(), part.end());
    }
    ExpectNear(scores, expected);
    engine->ReleaseSlot(slot);
  }
}

TEST_P(TorchEngineTest, ASessionAloneEqualsTheSameAmongThirtyOneOthers) {
  constexpr int32_t kSessions = 32;
  constexpr size_t kTokens = 120;
  auto engine = MakeEngine(kSessions + 1);
  std::vector<std::vector<uint32_t>> documents;
  std::vector<int32_t> slots;
  for (uint64_t i = 0; i < kSessions; ++i) {
    documents.push_back(Document(*engine, kTokens, kSeed + i));
    slots.push_back(*engine->AcquireSlot());
  }

  // Each session advances by another number of tokens in every step.
  std::vector<std::vector<float>> scores(kSessions);
  std::mt19937_64 random(kSeed);
  while (true) {
    Plan plan;
    std::vector<size_t> planned;
    for (size_t i = 0; i < kSessions; ++i) {
      const size_t left = kTokens - scores[i].size();
      const size_t count = std::min<size_t>(left, random() % 40);
      if (count == 0) continue;
      Row row;
      row.slot = slots[i];
      row.tokens = std::span(documents[i]).subspan(scores[i].size(), count);
      row.first = scores[i].empty();
      row.want_scores = true;
      plan.rows.push_back(row);
      planned.push_back(i);
    }
    if (plan.rows.empty()) {
      const bool done =
          std::all_of(scores.begin(), scores.end(), [](const auto& session) {
            return session.size() == kTokens;
          });
      if (done) break;
      continue;
    }
    const StepResult result = RunStep(*engine, plan);
    for (size_t i = 0; i < planned.size(); ++i) {
      EXPECT_TRUE(result.rows[i].finite);
      scores[planned[i]].insert(scores[planned[i]].end(),
                                result.rows[i].scores.begin(),
                                result.rows[i].scores.end());
    }
  }

  for (size_t i = 0; i < kSessions; i += 7) {
    const int32_t alone = *engine->AcquireSlot();
    ExpectNear(scores[i], FeedInPieces(*engine, alone, documents[i], kTokens));
    engine->ReleaseSlot(alone);
  }
}

TEST_P(TorchEngineTest, ACopiedAndALoadedStateGoOnExactlyAlike) {
  auto engine = MakeEngine(3);
  const auto document = Document(*engine, 90);
  const auto next = Document(*engine, 60, kSeed + 1);
  const int32_t slot = *engine->AcquireSlot();
  const int32_t copy = *engine->AcquireSlot();
  const int32_t loaded = *engine->AcquireSlot();
  FeedInPieces(*engine, slot, document, 40);

  ASSERT_TRUE(engine->CopySlot(slot, copy).ok());
  ASSERT_TRUE(engine->LoadSlot(Save(*engine, slot), loaded).ok());

  EXPECT_EQ(Save(*engine, copy), Save(*engine, slot));
  EXPECT_EQ(Save(*engine, loaded), Save(*engine, slot));
  const auto scores = FeedInPieces(*engine, slot, next, 30, 90);
  EXPECT_EQ(Bits(FeedInPieces(*engine, copy, next, 30, 90)), Bits(scores));
  EXPECT_EQ(Bits(FeedInPieces(*engine, loaded, next, 30, 90)), Bits(scores));
  EXPECT_EQ(Save(*engine, copy), Save(*engine, slot));
  EXPECT_EQ(ContinueGreedily(*engine, copy, 5),
            ContinueGreedily(*engine, slot, 5));
}

TEST_P(TorchEngineTest, AStateNotInTheStepStaysEqualToTheBit) {
  auto engine = MakeEngine(2);
  const auto document = Document(*engine, 50);
  const int32_t idle = *engine->AcquireSlot();
  const int32_t busy = *engine->AcquireSlot();
  FeedInPieces(*engine, idle, document, 50);
  const auto before = Save(*engine, idle);

  FeedInPieces(*engine, busy, document, 20);

  EXPECT_EQ(Save(*engine, idle), before);
}

TEST_P(TorchEngineTest, ANonFiniteStateStopsItsRowAloneAndNoOther) {
  auto engine = MakeEngine(4);
  const auto document = Document(*engine, 70);
  std::vector<int32_t> slots;
  std::vector<std::vector<std::byte>> states;
  for (int i = 0; i < 4; ++i) {
    slots.push_back(*engine->AcquireSlot());
    FeedInPieces(*engine, slots.back(), document, 10 + 5 * i);
    states.push_back(Save(*engine, slots.back()));
  }
  const auto step = [&] {
    Plan plan;
    for (size_t i = 0; i < slots.size(); ++i) {
      Row row;
      row.slot = slots[i];
      row.tokens = std::span(document).first(i % 2 == 0 ? 3 : 40);
      row.want_scores = true;
      row.sample.emplace();
      plan.rows.push_back(row);
    }
    return RunStep(*engine, plan);
  };
  const StepResult healthy = step();
  std::vector<std::vector<std::byte>> after;
  for (const int32_t slot : slots) after.push_back(Save(*engine, slot));

  for (const float poison : {std::numeric_limits<float>::quiet_NaN(),
                             std::numeric_limits<float>::infinity()}) {
    for (size_t i = 0; i < slots.size(); ++i) {
      ASSERT_TRUE(engine->LoadSlot(states[i], slots[i]).ok());
    }
    auto poisoned = states[1];
    std::memcpy(poisoned.data(), &poison, sizeof(poison));
    ASSERT_TRUE(engine->LoadSlot(poisoned, slots[1]).ok());

    const StepResult result = step();

    EXPECT_FALSE(result.rows[1].finite);
    for (const size_t i : {0, 2, 3}) {
      EXPECT_TRUE(result.rows[i].finite);
      EXPECT_EQ(Bits(result.rows[i].scores), Bits(healthy.rows[i].scores));
      EXPECT_EQ(result.rows[i].sampled->token, healthy.rows[i].sampled->token);
      EXPECT_EQ(Save(*engine, slots[i]), after[i]);
    }
  }
  engine->ReleaseSlot(slots[1]);
  const int32_t again = *engine->AcquireSlot();
  EXPECT_EQ(again, slots[1]);
  FeedInPieces(*engine, again, document, 30);  // expects finite rows
}

TEST_P(TorchEngineTest, ARowOfOneTokenMayBeTheFirst) {
  auto engine = MakeEngine(1);
  const auto document = Document(*engine, 30);
  const int32_t slot = *engine->AcquireSlot();

  const auto scores = FeedInPieces(*engine, slot, document, 1);

  EXPECT_TRUE(std::isnan(scores[0]));
  for (size_t i = 1; i < scores.size(); ++i) EXPECT_LE(scores[i], 0);
}

TEST_P(TorchEngineTest, AStepBeyondTheWorkspaceGivesTheSame) {
  auto large = MakeEngine(3);
  auto small = TorchEngine::Create(
      {.model_dir = SourcePath(GetParam()), .slots = 3, .step_tokens_max = 37});
  ASSERT_TRUE(small.ok()) << small.status();
  const auto document = Document(*large, 150);
  std::vector<StepResult> results;
  for (TorchEngine* engine : {large.get(), small->get()}) {
    Plan plan;
    for (const size_t count : {5, 150, 64}) {
      Row row;
      row.slot = *engine->AcquireSlot();
      row.tokens = std::span(document).first(count);
      row.first = true;
      row.want_scores = true;
      row.sample.emplace().temperature = 0;
      plan.rows.push_back(row);
    }
    results.push_back(RunStep(*engine, plan));
  }

  for (size_t i = 0; i < 3; ++i) {
    ExpectNear(results[1].rows[i].scores, results[0].rows[i].scores);
    EXPECT_TRUE(results[1].rows[i].finite);
    EXPECT_NEAR(results[1].rows[i].sampled->log_prob,
                results[0].rows[i].sampled->log_prob,
                kScoreTolerance);
  }
}

TEST_P(TorchEngineTest, ADrawnTokenHasTheLogProbabilityOfItsScore) {
  auto engine = MakeEngine(1);
  const auto document = Document(*engine, 25);
  const int32_t slot = *engine->AcquireSlot();
  FeedInPieces(*engine, slot, document, 25);

  for (uint64_t position = 25; position < 40; ++position) {
    Row draw;
    draw.slot = slot;
    draw.sample.emplace();
    draw.sample->temperature = 2;
    draw.sample->top_k = 20;
    draw.sample->seed = kSeed;
    draw.sample->position = position;
    const StepResult drawn = RunStep(*engine, {.rows = {draw}});
    ASSERT_TRUE(drawn.rows[0].sampled.has_value());
    const auto& sampled = *drawn.rows[0].sampled;
    // The same state, seed and position: the same token.
    EXPECT_EQ(RunStep(*engine, {.rows = {draw}}).rows[0].sampled->token,
              sampled.token);

    const auto scores =
        FeedInPieces(*engine, slot, std::span(&sampled.token, 1), 1, position);

    EXPECT_NEAR(scores[0], sampled.log_prob, kScoreTolerance);
  }
}

TEST_P(TorchEngineTest, TheModelSaysWhatItIs) {
  auto engine = MakeEngine(1);
  const ModelInfo& model = engine->model();

  EXPECT_GT(model.parameters, 0u);
  EXPECT_GT(model.layers, 0u);
  EXPECT_GT(model.state_bytes, 0u);
  EXPECT_TRUE(model.start_token.has_value());
  EXPECT_TRUE(model.byte_tokens);
}

TEST(TorchEngineModelTest, TheDemoModelIsAsItsCardSays) {
  auto engine = EngineOn("models/demo", 1);
  const ModelInfo& model = engine->model();

  EXPECT_EQ(model.family, "gated_deltanet");
  EXPECT_EQ(model.dtype, "bf16");
  EXPECT_EQ(model.parameters, 7'451'456u);
  EXPECT_EQ(model.vocabulary, 256u);
  EXPECT_EQ(model.layers, 8u);
  EXPECT_EQ(model.state_bytes, (149'504u + 256u) * 4);
  EXPECT_EQ(model.trained_length, 8192u);
  EXPECT_EQ(model.start_token, 0u);
}

class TorchEnginePlanTest : public testing::Test {
 protected:
  absl::Status SubmitRows(std::vector<Row> rows) {
    return engine_->Submit({.rows = std::move(rows)}).status();
  }
  static Row RowOf(int32_t slot, std::span<const uint32_t> tokens) {
    Row row;
    row.slot = slot;
    row.tokens = tokens;
    return row;
  }

  std::unique_ptr<TorchEngine> engine_ =
      EngineOn("tests/golden/fla_gated_deltanet", 3);
  const std::vector<uint32_t> tokens_ = {1, 2, 3};
};

TEST_F(TorchEnginePlanTest, RefusesAPlanThatBreaksARule) {
  const int32_t slot = *engine_->AcquireSlot();
  const std::vector<uint32_t> beyond = {1, 259};
  const std::vector<uint32_t> far_beyond = {0xffffffffu};
  Row first_draw = RowOf(slot, {});
  first_draw.first = true;
  first_draw.sample.emplace();
  const auto before = Save(*engine_, slot);

  for (const auto& rows : std::vector<std::vector<Row>>{
           {RowOf(1, tokens_)},
           {RowOf(-1, tokens_)},
           {RowOf(3, tokens_)},
           {RowOf(slot, tokens_), RowOf(slot, tokens_)},
           {RowOf(slot, beyond)},
           {RowOf(slot, far_beyond)},
           {RowOf(slot, {})},
           {first_draw},
       }) {
    const absl::Status status = SubmitRows(rows);
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << status;
  }

  EXPECT_EQ(Save(*engine_, slot), before);
  EXPECT_TRUE(SubmitRows({RowOf(slot, tokens_)}).ok());
}

TEST_F(TorchEnginePlanTest, OneStepAtATime) {
  const int32_t slot = *engine_->AcquireSlot();
  auto ticket = engine_->Submit({.rows = {RowOf(slot, tokens_)}});
  ASSERT_TRUE(ticket.ok());

  EXPECT_EQ(SubmitRows({RowOf(slot, tokens_)}).code(),
            absl::StatusCode::kFailedPrecondition);
  EXPECT_EQ(engine_->Wait(*ticket + 1).status().code(),
            absl::StatusCode::kInvalidArgument);
  EXPECT_TRUE(engine_->Wait(*ticket).ok());
  EXPECT_EQ(engine_->Wait(*ticket).status().code(),
            absl::StatusCode::kInvalidArgument);
  EXPECT_TRUE(SubmitRows({RowOf(slot, tokens_)}).ok());
}

TEST_F(TorchEnginePlanTest, AnEmptyPlanIsAStep) {
  EXPECT_TRUE(RunStep(*engine_, {}).rows.empty());
}

TEST_F(TorchEnginePlanTest, SlotsRunOutAndComeBack) {
  EXPECT_EQ(engine_->slots(), 3);
  std::vector<int32_t> slots;
  for (int i = 0; i < 3; ++i) slots.push_back(*engine_->AcquireSlot());
  EXPECT_EQ(engine_->slots_free(), 0);
  EXPECT_EQ(engine_->AcquireSlot().status().code(),
            absl::StatusCode::kResourceExhausted);

  engine_->ReleaseSlot(slots[1]);

  EXPECT_EQ(*engine_->AcquireSlot(), slots[1]);
}

TEST(TorchEngineCreateTest, RefusesOptionsOutOfRange) {
  const std::string folder = SourcePath("tests/golden/fla_gated_deltanet");
  const auto code = [](const TorchEngine::Options& options) {
    return TorchEngine::Create(options).status().code();
  };
  constexpr auto kInvalid = absl::StatusCode::kInvalidArgument;

  EXPECT_EQ(code({.model_dir = folder}), kInvalid);
  EXPECT_EQ(code({.model_dir = folder, .slots = -1}), kInvalid);
  EXPECT_EQ(code({.model_dir = folder, .slots = 1, .pool_bytes = 1}), kInvalid);
  EXPECT_EQ(code({.model_dir = folder, .slots = 1, .threads = -1}), kInvalid);
  EXPECT_EQ(code({.model_dir = folder, .slots = 1, .threads = 1'000'000}),
            kInvalid);
  EXPECT_EQ(code({.model_dir = folder, .slots = 1, .step_tokens_max = 0}),
            kInvalid);
  EXPECT_EQ(code({.model_dir = folder, .pool_bytes = 100}),
            absl::StatusCode::kResourceExhausted);
}

TEST(TorchEngineCreateTest, PoolBytesMakeAsManySlotsAsFit) {
  const std::string folder = SourcePath("tests/golden/fla_gated_deltanet");
  auto one = EngineOn("tests/golden/fla_gated_deltanet", 1);
  const auto state = static_cast<int64_t>(one->model().state_bytes);

  auto engine = TorchEngine::Create(
      {.model_dir = folder, .pool_bytes = 10 * state + 640});

  ASSERT_TRUE(engine.ok()) << engine.status();
  EXPECT_EQ((*engine)->slots(), 10);
}

}  // namespace
}  // namespace weir::engine
