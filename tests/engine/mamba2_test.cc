// SPDX-License-Identifier: Apache-2.0
//
// What the formats of Mamba-2 have that no golden file shows, by identities.
#include <cstdint>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "engine/torch_engine.h"
#include "gtest/gtest.h"
#include "nlohmann/json.hpp"
#include "tests/engine/engine_driver.h"
#include "tests/engine/model_files.h"

namespace weir::engine {
namespace {

using nlohmann::json;
using Spans = std::vector<std::pair<int64_t, int64_t>>;

constexpr uint64_t kSeed = 20261124;
constexpr size_t kTokens = 200;

std::vector<float> ScoresOf(const std::string& folder) {
  auto engine = TorchEngine::Create({.model_dir = folder, .slots = 1});
  EXPECT_TRUE(engine.ok()) << engine.status();
  if (!engine.ok()) return {};
  const int32_t slot = *(*engine)->AcquireSlot();
  const auto tokens = RandomTokens(259, kTokens, kSeed);
  auto scores = FeedInPieces(**engine, slot, tokens, 64);
  // The first is NaN, equal to nothing.
  if (!scores.empty()) scores.erase(scores.begin());
  return scores;
}

// Only these of the tensor's first axis.
void KeepRows(TensorFile& file, const std::string& name, const Spans& spans) {
  TensorFile::Tensor& tensor = file.tensors.at(name);
  const size_t row = tensor.bytes.size() / tensor.shape[0];
  std::string kept;
  for (const auto& [begin, end] : spans) {
    kept += tensor.bytes.substr(begin * row, (end - begin) * row);
  }
  tensor.shape[0] = static_cast<int64_t>(kept.size() / row);
  tensor.bytes = kept;
}

// tests/golden/mamba2 has 8 heads of 16 in two groups with states of 16, and a
// width of 64: two halves of 64 channels.
constexpr int64_t kHalf = 64;
constexpr int64_t kHalfHeads = 4;
constexpr int64_t kState = 16;
constexpr int64_t kHidden = 64;

json FlaConfig(int groups, int expand, bool norm_first) {
  json config = json::parse(
      ReadFileBytes(SourcePath("tests/golden/fla_mamba2/config.json")));
  config["n_groups"] = groups;
  config["expand"] = expand;
  config["num_heads"] = groups * kHalfHeads;
  config["norm_before_gate"] = norm_first;
  return config;
}

// The second group reaches nothing: its columns of W_out are zero.
void SilenceSecondGroup(TensorFile& file) {
  for (const char* layer : {"0", "1"}) {
    const std::string name =
        "backbone.layers." + std::string(layer) + ".mixer.out_proj.weight";
    std::vector<float> weight = file.Floats(name);
    for (int64_t i = 0; i < kHidden; ++i) {
      for (int64_t j = kHalf; j < 2 * kHalf; ++j) weight[i * 2 * kHalf + j] = 0;
    }
    file.Add(name, {kHidden, 2 * kHalf}, weight);
  }
}

void KeepFirstGroup(TensorFile& file) {
  const int64_t b = 2 * kHalf;       // of B, behind x
  const int64_t c = b + 2 * kState;  // of C
  const int64_t xbc = 2 * kHalf;     // of x, B and C, behind z
  const int64_t dt = xbc + c + 2 * kState;
  const Spans mixed = {{0, kHalf}, {b, b + kState}, {c, c + kState}};
  Spans projected = {{0, kHalf}};
  for (const auto& [begin, end] : mixed) {
    projected.emplace_back(xbc + begin, xbc + end);
  }
  projected.emplace_back(dt, dt + kHalfHeads);
  for (const char* layer : {"0", "1"}) {
    const std::string prefix =
        "backbone.layers." + std::string(layer) + ".mixer.";
    KeepRows(file, prefix + "in_proj.weight", projected);
    KeepRows(file, prefix + "conv1d.weight", mixed);
    KeepRows(file, prefix + "conv1d.bias", mixed);
    for (const char* name : {"A_log", "D", "dt_bias"}) {
      KeepRows(file, prefix + name, {{0, kHalfHeads}});
    }
    KeepRows(file, prefix + "norm.weight", {{0, kHalf}});
    const std::vector<float> whole = file.Floats(prefix + "out_proj.weight");
    std::vector<float> kept;
    for (int64_t i = 0; i < kHidden; ++i) {
      const auto row = whole.begin() + i * 2 * kHalf;
      kept.insert(kept.end(), row, row + kHalf);
    }
    file.Add(prefix + "out_proj.weight", {kHidden, kHalf}, kept);
  }
}

class FlaMamba2NormTest : public testing::TestWithParam<bool> {};

TEST_P(FlaMamba2NormTest, AGroupIsNormalisedByItself) {
  ModelCopy two("tests/golden/mamba2");
  two.config = FlaConfig(2, 2, GetParam());
  SilenceSecondGroup(two.weights);
  two.Write();
  ModelCopy one("tests/golden/mamba2");
  one.config = FlaConfig(1, 1, GetParam());
  KeepFirstGroup(one.weights);
  one.Write();

  const std::vector<float> of_two = ScoresOf(two.path());
  const std::vector<float> of_one = ScoresOf(one.path());

  ASSERT_EQ(of_two.size(), kTokens - 1);
  ASSERT_EQ(of_one.size(), kTokens - 1);
  for (size_t i = 0; i < of_two.size(); ++i) {
    ASSERT_NEAR(of_two[i], of_one[i], 1e-4) << "token " << i + 1;
  }
}

INSTANTIATE_TEST_SUITE_P(Orders,
                         FlaMamba2NormTest,
                         testing::Bool(),
                         [](const testing::TestParamInfo<bool>& info) {
                           return info.param ? "norm_first" : "gate_first";
                         });

TEST(OfficialMamba2Test, ScoresAsTheSameWeightsUnderTransformersNames) {
  ModelCopy official("tests/golden/mamba2_limit");
  auto& tensors = official.weights.tensors;
  tensors["backbone.embedding.weight"] =
      tensors.at("backbone.embeddings.weight");
  tensors.erase("backbone.embeddings.weight");
  // The published files hold the tied head a second time.
  tensors["lm_head.weight"] = tensors.at("backbone.embedding.weight");
  official.config = json::parse(R"({
    "d_model": 64, "d_intermediate": 0, "n_layer": 2, "vocab_size": 258,
    "ssm_cfg": {"layer": "Mamba2", "d_state": 16, "headdim": 32, "bias": true,
                "dt_limit": [0.01, 0.2]},
    "attn_layer_idx": [], "attn_cfg": {}, "rms_norm": true,
    "residual_in_fp32": true, "fused_add_norm": true,
    "pad_vocab_size_multiple": 7, "tie_embeddings": true})");
  official.Write();

  const std::vector<float> scores = ScoresOf(official.path());

  ASSERT_EQ(scores.size(), kTokens - 1);
  EXPECT_EQ(scores, ScoresOf(SourcePath("tests/golden/mamba2_limit")));
}

}  // namespace
}  // namespace weir::engine
