// SPDX-License-Identifier: Apache-2.0
//
// A model whose parts have their weights in turn, on every checkpoint of
// tests/golden.
#include <gtest/gtest.h>

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <filesystem>
#include <memory>
#include <string>
#include <vector>

#include "engine/model/model.h"
#include "tests/engine/source_path.h"

namespace weir::engine {
namespace {

namespace fs = std::filesystem;

std::vector<std::string> Folders() {
  std::vector<std::string> names;
  for (const auto& entry : fs::directory_iterator(SourcePath("tests/golden"))) {
    if (fs::exists(entry.path() / "model.safetensors")) {
      names.push_back(entry.path().filename().string());
    }
  }
  std::sort(names.begin(), names.end());
  return names;
}

std::unique_ptr<Model> Loaded(const std::string& name, bool parts_in_turn) {
  auto model =
      Model::Load(SourcePath("tests/golden/" + name),
                  {.pass_tokens_max = 16, .parts_in_turn = parts_in_turn});
  EXPECT_TRUE(model.ok()) << model.status();
  return model.ok() ? *std::move(model) : nullptr;
}

// The bits of the logits after nine tokens.
std::vector<uint32_t> LogitBits(Model& model) {
  auto pool = StatePool::Create(model.state_spec(), {.slots = 1});
  EXPECT_TRUE(pool.ok()) << pool.status();
  const int32_t slot = *(*pool)->Acquire();
  const std::vector<uint32_t> tokens = {3, 1, 4, 1, 5, 9, 2, 6, 5};
  const auto count = static_cast<int32_t>(tokens.size());
  const int32_t row_starts[] = {0, count};
  const Batch batch = {.rows = 1,
                       .tokens = count,
                       .row_starts = row_starts,
                       .slots = &slot,
                       .short_rows = IsShortRow(count) ? 1 : 0};
  const float* outputs = model.Forward(batch, tokens.data(), **pool);
  std::vector<float> logits(tokens.size() * model.info().vocabulary);
  model.Logits(outputs, count, logits.data());
  std::vector<uint32_t> bits(logits.size());
  std::memcpy(bits.data(), logits.data(), logits.size() * sizeof(float));
  return bits;
}

class ModelPartsTest : public testing::TestWithParam<std::string> {};

TEST_P(ModelPartsTest, ReadInTurnTheyMakeTheSameModel) {
  const auto whole = Loaded(GetParam(), false);
  const auto in_turn = Loaded(GetParam(), true);
  ASSERT_NE(whole, nullptr);
  ASSERT_NE(in_turn, nullptr);
  EXPECT_EQ(in_turn->info().parameters, whole->info().parameters);
  EXPECT_EQ(in_turn->info().weight_bytes, whole->info().weight_bytes);

  for (size_t i = 0; i < in_turn->parts().size(); ++i) {
    const absl::Status loaded = in_turn->LoadPart(i);
    ASSERT_TRUE(loaded.ok()) << loaded;
  }

  EXPECT_EQ(LogitBits(*in_turn), LogitBits(*whole));
}

TEST_P(ModelPartsTest, OneThatIsDroppedIsGone) {
  const auto model = Loaded(GetParam(), true);
  ASSERT_NE(model, nullptr);
  ASSERT_TRUE(model->LoadPart(0).ok());
  model->DropPart(0);
  EXPECT_EQ(model->parts()[0].mixer, nullptr);
  EXPECT_TRUE(model->LoadPart(1).ok());
  model->DropTables();
  EXPECT_EQ(model->embedding().data(), nullptr);
}

INSTANTIATE_TEST_SUITE_P(Folders,
                         ModelPartsTest,
                         testing::ValuesIn(Folders()),
                         [](const auto& info) { return info.param; });

}  // namespace
}  // namespace weir::engine
