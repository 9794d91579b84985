// SPDX-License-Identifier: Apache-2.0
#include "engine/self_test.h"

#include <algorithm>
#include <cstdint>
#include <functional>
#include <limits>
#include <string>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/engine/engine_driver.h"
#include "tests/engine/model_files.h"

namespace weir::engine {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;
using ::testing::StartsWith;

constexpr const char* kSmall = "tests/golden/fla_gated_deltanet";

// Replaces all values of a tensor.
void Fill(TensorFile& file, const std::string& name, float value) {
  std::vector<float> values = file.Floats(name);
  std::fill(values.begin(), values.end(), value);
  file.Add(name, file.tensors.at(name).shape, values);
}

std::unique_ptr<TorchEngine> Load(const ModelCopy& model) {
  auto engine = TorchEngine::Create(
      {.model_dir = model.path(), .slots = 2, .allow_nonfinite = true});
  EXPECT_TRUE(engine.ok()) << engine.status();
  return engine.ok() ? *std::move(engine) : nullptr;
}

std::string SelfTestOf(const ModelCopy& model) {
  const auto engine = Load(model);
  const absl::Status status = SelfTest(*engine, model.path());
  EXPECT_EQ(engine->slots_free(), 2);
  EXPECT_EQ(status.ok() ? absl::StatusCode::kFailedPrecondition : status.code(),
            absl::StatusCode::kFailedPrecondition);
  return std::string(status.message());
}

TEST(SelfTestTest, AGoodModelPassesAndNothingIsLeft) {
  const auto tested = EngineOn(kSmall, 2);
  const auto untested = EngineOn(kSmall, 2);

  EXPECT_TRUE(SelfTest(*tested, kSmall).ok());

  EXPECT_EQ(tested->slots_free(), 2);
  const std::vector<uint32_t> tokens =
      RandomTokens(untested->model().vocabulary, 300, 5);
  const int32_t slot = *tested->AcquireSlot();
  ASSERT_EQ(slot, *untested->AcquireSlot());
  EXPECT_EQ(Save(*tested, slot), Save(*untested, slot));
  FeedInPieces(*tested, slot, tokens, 256);
  FeedInPieces(*untested, slot, tokens, 256);
  EXPECT_EQ(Save(*tested, slot), Save(*untested, slot));
}

TEST(SelfTestTest, FiniteWeightsThatOverflowAreRefused) {
  ModelCopy head(kSmall);
  Fill(head.weights, "lm_head.weight", 3e38f);
  head.Write();

  EXPECT_THAT(SelfTestOf(head),
              AllOf(StartsWith("SELF_TEST: " + head.path() + ": "),
                    HasSubstr("the logits"),
                    HasSubstr("checksums")));

  ModelCopy part(kSmall);
  Fill(part.weights, "model.layers.0.mlp.down_proj.weight", 3e38f);
  part.Write();

  EXPECT_THAT(SelfTestOf(part), HasSubstr("the state layers.1."));
}

TEST(SelfTestTest, NonFiniteWeightsThatWereAllowedAreRefusedIfTheyReachALogit) {
  for (const float bad : {std::numeric_limits<float>::quiet_NaN(),
                          std::numeric_limits<float>::infinity()}) {
    ModelCopy model(kSmall);
    Fill(model.weights, "model.layers.1.attn.o_proj.weight", bad);
    model.Write();

    EXPECT_THAT(SelfTestOf(model), HasSubstr("the state output"));
  }
  ModelCopy never_fed(kSmall);
  std::vector<float> table =
      never_fed.weights.Floats("model.embeddings.weight");
  table.back() = std::numeric_limits<float>::quiet_NaN();
  never_fed.weights.Add("model.embeddings.weight", {259, 64}, table);
  never_fed.Write();

  EXPECT_EQ(SelfTestOf(never_fed), "");
}

TEST(SelfTestTest, AFullPoolIsSaid) {
  const auto engine = EngineOn(kSmall, 1);
  ASSERT_TRUE(engine->AcquireSlot().ok());

  EXPECT_EQ(SelfTest(*engine, kSmall).code(),
            absl::StatusCode::kResourceExhausted);
}

}  // namespace
}  // namespace weir::engine
