// SPDX-License-Identifier: Apache-2.0
//
// Every family of tests/golden on a GPU against the engine on the CPU, which is
// held to the golden logits; and mixers of other sizes, with drawn weights.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstring>
#include <memory>
#include <numbers>
#include <ostream>
#include <random>
#include <set>
#include <span>
#include <string>
#include <tuple>
#include <vector>

#include "engine/cuda_engine.h"
#include "engine/self_test.h"
#include "engine/torch_engine.h"
#include "nlohmann/json.hpp"
#include "tests/engine/engine_driver.h"
#include "tests/engine/formula_case.h"
#include "tests/engine/model_files.h"
#include "tests/golden/golden_file.h"

namespace weir::engine {

// formula_case.h has it for the tests of a mixer; here it draws weights.
GTEST_ALLOW_UNINSTANTIATED_PARAMETERIZED_TEST(FormulaTest);

}  // namespace weir::engine

namespace weir::gpu {
namespace {

using engine::Compute;
using engine::ContinueGreedily;
using engine::CudaEngineOptions;
using engine::Engine;
using engine::FeedInPieces;
using engine::ModelCopy;
using engine::Plan;
using engine::RandomTokens;
using engine::Row;
using engine::RunStep;
using engine::Save;
using engine::SourcePath;
using engine::StepResult;
using nlohmann::json;

constexpr uint64_t kSeed = 20261201;
constexpr size_t kTokens = 300;
constexpr int32_t kSlots = 8;
constexpr double kScoreTolerance = 1e-3;  // fp32, each
constexpr double kBitsTolerance = 0.02;   // bf16, their mean

// Families whose mixers run on a CPU only.
const std::set<std::string>& OnCpuOnly() {
  static const std::set<std::string> names = {
      "fla_gsa", "fla_gsa_conv", "xlstm"};
  return names;
}

// A folder of tests/golden, or a configuration.
struct FamilyCase {
  std::string name;
  json config = {};
};

void PrintTo(const FamilyCase& family, std::ostream* stream) {
  *stream << family.name;
}

// Logits of the size that a trained model's have, and the golden ones.
void MakeLogitsSmall(const std::string& name, std::vector<float>& values) {
  if (name != "lm_head.weight") return;
  for (float& value : values) value *= 0.25F;
}

json Decoder(const char* model_type, const json& keys) {
  json config = {{"model_type", model_type},
                 {"hidden_size", 128},
                 {"num_hidden_layers", 2},
                 {"vocab_size", 67},
                 {"intermediate_size", 136},
                 {"tie_word_embeddings", false},
                 {"norm_eps", 1e-5}};
  config.update(keys);
  return config;
}

json Mamba(const char* model_type, const json& keys) {
  json config = {{"model_type", model_type},
                 {"hidden_size", 128},
                 {"num_hidden_layers", 2},
                 {"vocab_size", 67},
                 {"tie_word_embeddings", false},
                 {"layer_norm_epsilon", 1e-5},
                 {"expand", 2}};
  config.update(keys);
  return config;
}

json Mamba2(const json& keys) {
  json config = Mamba("mamba2", {{"conv_kernel", 4}});
  config.update(keys);
  return config;
}

// Sizes that tests/golden has not: heads that go in chunks where the numbers
// are bf16, shared keys, and the families in formats of our own.
std::vector<FamilyCase> OtherSizes() {
  return {
      {"delta_net_64",
       Decoder("delta_net", {{"num_heads", 2}, {"use_gate", true}})},
      {"delta_net_64_no_beta",
       Decoder("delta_net", {{"num_heads", 2}, {"use_beta", false}})},
      {"gated_deltanet_64_no_conv",
       Decoder("gated_deltanet",
               {{"num_heads", 1},
                {"num_v_heads", 2},
                {"head_dim", 64},
                {"expand_v", 1},
                {"use_short_conv", false}})},
      {"gated_deltaproduct_64",
       Decoder("gated_deltaproduct",
               {{"num_heads", 2},
                {"head_dim", 64},
                {"expand_v", 1},
                {"num_householder", 3},
                {"use_forget_gate", true},
                {"allow_neg_eigval", true}})},
      {"gdn2_12",
       Decoder("weir_gdn2",
               {{"num_heads", 2},
                {"num_v_heads", 4},
                {"head_dim", 24},
                {"expand_v", 1},
                {"conv_size", 3}})},
      {"gla_128",
       Decoder("gla",
               {{"num_heads", 1}, {"expand_k", 1}, {"clamp_min", -0.5}})},
      {"gla_64",
       Decoder("gla", {{"num_heads", 2}, {"expand_k", 1}, {"expand_v", 2}})},
      {"hgrn2_64",
       Decoder("hgrn2", {{"expand_ratio", 64}, {"use_lower_bound", false}})},
      {"hgrn2_128", Decoder("hgrn2", {{"expand_ratio", 128}})},
      {"kda_128",
       Decoder("kda",
               {{"num_heads", 1},
                {"num_v_heads", 2},
                {"head_dim", 128},
                {"allow_neg_eigval", true}})},
      {"kda_64_safe",
       Decoder("kda",
               {{"num_heads", 2}, {"head_dim", 64}, {"safe_gate", true}})},
      {"lightning_24_fla",
       Decoder("weir_lightning",
               {{"num_heads", 3}, {"head_dim", 24}, {"slopes", "fla"}})},
      {"lightning_64",
       Decoder("weir_lightning", {{"num_heads", 2}, {"head_dim", 64}})},
      {"mamba2_64",
       Mamba2({{"head_dim", 64}, {"n_groups", 2}, {"state_size", 64}})},
      {"mamba2_64_of_128",
       Mamba2({{"head_dim", 64}, {"n_groups", 1}, {"state_size", 128}})},
      {"retnet_64", Decoder("retnet", {{"num_heads", 2}})},
      {"simple_gla_32",
       Decoder("weir_simple_gla", {{"num_heads", 4}, {"conv_size", 3}})},
      {"simple_gla_64",
       Decoder("weir_simple_gla", {{"num_heads", 2}, {"gate_fn", "sigmoid"}})},
  };
}

// Mamba-1's: channels of few states and of several threads' states each, ranks
// that no product takes as they are.
std::vector<FamilyCase> MambaSizes() {
  return {
      {"falcon_mamba_12",
       Mamba("falcon_mamba",
             {{"state_size", 12},
              {"time_step_rank", 5},
              {"mixer_rms_eps", 1e-3},
              {"conv_kernel", 3}})},
      {"mamba_16",
       Mamba("mamba",
             {{"state_size", 16},
              {"time_step_rank", 9},
              {"use_conv_bias", false}})},
      {"mamba_40_bias",
       Mamba("mamba",
             {{"state_size", 40},
              {"time_step_rank", 3},
              {"conv_kernel", 3},
              {"use_bias", true},
              {"expand", 1}})},
      {"mamba_5",
       Mamba(
           "mamba",
           {{"state_size", 5}, {"conv_kernel", 2}, {"intermediate_size", 72}})},
  };
}

// The same of mixers whose sums nothing damps, each of their feature maps.
std::vector<FamilyCase> SummedSizes() {
  return {
      {"linear_attn_16_dpfp",
       Decoder("linear_attn",
               {{"num_heads", 8},
                {"feature_map", "dpfp"},
                {"norm_q", true},
                {"norm_k", true},
                {"norm_feature_map", true}})},
      {"linear_attn_24_products",
       Decoder("linear_attn",
               {{"num_heads", 4},
                {"expand_k", 0.75},
                {"expand_v", 1.5},
                {"feature_map", "elementwise_product"},
                {"tie_feature_map_qk", true}})},
      {"linear_attn_64_hedgehog",
       Decoder("linear_attn",
               {{"num_heads", 2},
                {"num_kv_heads", 1},
                {"feature_map", "hedgehog"},
                {"norm_feature_map", true}})},
      {"linear_attn_64_identity",
       Decoder("linear_attn", {{"num_heads", 2}, {"feature_map", "identity"}})},
      {"linear_attn_128_relu",
       Decoder("linear_attn",
               {{"num_heads", 1},
                {"expand_v", 2},
                {"feature_map", "relu"},
                {"norm_feature_map", true}})},
      {"linear_transformer_32",
       Decoder("weir_linear_transformer",
               {{"num_heads", 4}, {"qkv_bias", true}, {"out_bias", true}})},
      {"linear_transformer_64_plain",
       Decoder("weir_linear_transformer",
               {{"num_heads", 2}, {"value_dim", 72}, {"normalize", false}})},
      {"performer_32",
       Decoder("weir_performer",
               {{"num_heads", 4}, {"num_features", 100}, {"qkv_bias", true}})},
      {"performer_64_apart",
       Decoder("weir_performer",
               {{"num_heads", 2},
                {"num_features", 256},
                {"value_dim", 96},
                {"shared_features", false}})},
      {"performer_64_relu",
       Decoder("weir_performer",
               {{"num_heads", 2}, {"num_features", 128}, {"kernel", "relu"}})},
  };
}

// RWKV's: heads of other sizes than one another's, and widths of no power.
std::vector<FamilyCase> RwkvSizes() {
  return {
      {"rwkv_200_of_72",
       {{"model_type", "rwkv"},
        {"hidden_size", 72},
        {"attention_hidden_size", 200},
        {"intermediate_size", 136},
        {"num_hidden_layers", 2},
        {"vocab_size", 67},
        {"tie_word_embeddings", false},
        {"layer_norm_epsilon", 1e-5},
        {"context_length", 1024}}},
      {"rwkv6_64",
       Decoder("rwkv6",
               {{"num_heads", 2},
                {"expand_k", 1},
                {"proj_low_rank_dim", 16},
                {"gate_low_rank_dim", 24}})},
      {"rwkv6_20_of_12",
       Decoder("rwkv6",
               {{"hidden_size", 72},
                {"num_heads", 6},
                {"expand_k", 1},
                {"expand_v", 1.6667},
                {"proj_low_rank_dim", 8},
                {"gate_low_rank_dim", 8},
                {"norm_bias", false},
                {"norm_first", false}})},
      {"rwkv7_64", Decoder("rwkv7", {{"head_dim", 64}, {"value_dim", 128}})},
      {"rwkv7_16_of_24",
       Decoder("rwkv7",
               {{"num_heads", 8},
                {"value_dim", 192},
                {"decay_low_rank_dim", 24},
                {"a_low_rank_dim", 8},
                {"v_low_rank_dim", 40},
                {"gate_low_rank_dim", 16},
                {"fuse_norm", false},
                {"norm_bias", false},
                {"norm_first", false},
                {"num_hidden_layers", 3}})},
  };
}

std::vector<FamilyCase> Families() {
  std::vector<FamilyCase> families;
  for (const std::string& name :
       golden::GoldenFolders(SourcePath("tests/golden"))) {
    families.push_back({name});
  }
  for (const auto& sizes :
       {OtherSizes(), MambaSizes(), SummedSizes(), RwkvSizes()}) {
    families.insert(families.end(), sizes.begin(), sizes.end());
  }
  return families;
}

std::vector<uint32_t> Bits(const std::vector<float>& values) {
  std::vector<uint32_t> bits(values.size());
  std::memcpy(bits.data(), values.data(), values.size() * sizeof(float));
  return bits;
}

double BitsPerToken(const std::vector<float>& scores) {
  double sum = 0;
  for (size_t i = 1; i < scores.size(); ++i) sum -= scores[i];
  return sum / (std::numbers::ln2 * static_cast<double>(scores.size() - 1));
}

absl::StatusOr<std::unique_ptr<Engine>> EngineOn(const std::string& folder,
                                                 Compute compute) {
  CudaEngineOptions options;
  options.model_dir = folder;
  options.compute = compute;
  options.slots = kSlots;
  options.step_rows_max = kSlots;
  options.step_tokens_max = 1024;
  return CreateCudaEngine(options);
}

class FamiliesTest
    : public testing::TestWithParam<std::tuple<FamilyCase, Compute>> {
 protected:
  static const FamilyCase& family() { return std::get<0>(GetParam()); }
  static Compute compute() { return std::get<1>(GetParam()); }

  void SetUp() override {
    folder_ = SourcePath("tests/golden/" + family().name);
    if (!family().config.is_null()) {
      model_ = std::make_unique<ModelCopy>(
          family().config,
          engine::DrawWeights({.name = family().name,
                               .config = family().config,
                               .reference = nullptr,
                               .edit = MakeLogitsSmall}));
      folder_ = model_->path();
    }
    auto engine = EngineOn(folder_, compute());
    if (OnCpuOnly().contains(family().name)) {
      ASSERT_EQ(engine.status().code(), absl::StatusCode::kUnimplemented);
      EXPECT_THAT(std::string(engine.status().message()),
                  testing::HasSubstr("a CPU only"));
      return;
    }
    ASSERT_TRUE(engine.ok()) << engine.status();
    engine_ = *std::move(engine);
    tokens_ = RandomTokens(engine_->model().vocabulary, kTokens, kSeed);
    auto cpu = engine::TorchEngine::Create({.model_dir = folder_, .slots = 1});
    ASSERT_TRUE(cpu.ok()) << cpu.status();
    expected_ = FeedInPieces(**cpu, *(*cpu)->AcquireSlot(), tokens_, kTokens);
  }

  // In fp32 scores agree one by one, in bf16 in their mean.
  void ExpectAlike(const std::vector<float>& actual,
                   std::span<const float> expected) {
    ASSERT_EQ(actual.size(), expected.size());
    double worst = 0;
    for (size_t i = 1; i < actual.size(); ++i) {
      const double error = std::abs(double{actual[i]} - double{expected[i]});
      // A NaN is not within anything.
      if (!(error <= worst)) worst = error;
    }
    ASSERT_FALSE(std::isnan(worst));
    const std::vector<float> want(expected.begin(), expected.end());
    const double bits = BitsPerToken(actual) - BitsPerToken(want);
    worst_ = std::max(worst_, worst);
    worst_bits_ = std::max(worst_bits_, std::abs(bits));
    if (compute() == Compute::kFloat32) {
      EXPECT_LE(worst, kScoreTolerance);
    }
    EXPECT_LE(std::abs(bits), kBitsTolerance);
  }

  void ExpectScoresInRowsOfAnyLength();
  void ExpectScoresAmongOthers();
  void ExpectCopiesGoOnAlike();
  void ExpectNothingOfAFreedSlot();

  std::unique_ptr<ModelCopy> model_;
  std::string folder_;
  std::unique_ptr<Engine> engine_;  // null for a family on a CPU only
  std::vector<uint32_t> tokens_;
  std::vector<float> expected_;
  double worst_ = 0;
  double worst_bits_ = 0;
};

INSTANTIATE_TEST_SUITE_P(
    Families,
    FamiliesTest,
    testing::Combine(testing::ValuesIn(Families()),
                     testing::Values(Compute::kFloat32, Compute::kBfloat16)),
    [](const auto& info) {
      return std::get<0>(info.param).name +
             (std::get<1>(info.param) == Compute::kFloat32 ? "_fp32" : "_bf16");
    });

void FamiliesTest::ExpectScoresInRowsOfAnyLength() {
  for (const size_t piece : {kTokens, size_t{33}, size_t{7}, size_t{1}}) {
    SCOPED_TRACE(piece);
    const int32_t slot = *engine_->AcquireSlot();
    ExpectAlike(FeedInPieces(*engine_, slot, tokens_, piece), expected_);
    engine_->ReleaseSlot(slot);
  }
}

// Sessions whose rows are of one token, of few and of many, in one step.
void FamiliesTest::ExpectScoresAmongOthers() {
  constexpr size_t kSessions = 6;
  std::vector<int32_t> slots;
  for (size_t i = 0; i < kSessions; ++i) {
    slots.push_back(*engine_->AcquireSlot());
  }
  std::vector<std::vector<float>> scores(kSessions);
  std::mt19937_64 random(kSeed);
  for (int step = 0; scores[0].size() < 20; ++step) {
    const uint64_t most = step % 3 == 0 ? 1 : step % 3 == 1 ? 20 : 70;
    Plan plan;
    std::vector<size_t> planned;
    for (size_t i = 0; i < kSessions; ++i) {
      const size_t count = std::min<size_t>(kTokens - scores[i].size(),
                                            i == 0 ? 1 : random() % (most + 1));
      if (count == 0) continue;
      Row row;
      row.slot = slots[i];
      row.tokens = std::span(tokens_).subspan(scores[i].size(), count);
      row.first = scores[i].empty();
      row.want_scores = true;
      plan.rows.push_back(row);
      planned.push_back(i);
    }
    const StepResult result = RunStep(*engine_, plan);
    for (size_t i = 0; i < planned.size(); ++i) {
      EXPECT_TRUE(result.rows[i].finite);
      auto& of_session = scores[planned[i]];
      of_session.insert(of_session.end(),
                        result.rows[i].scores.begin(),
                        result.rows[i].scores.end());
    }
  }
  for (size_t i = 0; i < kSessions; ++i) {
    SCOPED_TRACE(i);
    // A mean of few is no mean: in bf16 of the long ones alone.
    if (compute() == Compute::kFloat32 || scores[i].size() > 100) {
      ExpectAlike(scores[i], std::span(expected_).first(scores[i].size()));
    }
    engine_->ReleaseSlot(slots[i]);
  }
}

void FamiliesTest::ExpectCopiesGoOnAlike() {
  const int32_t slot = *engine_->AcquireSlot();
  const int32_t copy = *engine_->AcquireSlot();
  const int32_t loaded = *engine_->AcquireSlot();
  FeedInPieces(*engine_, slot, std::span(tokens_).first(90), 45);
  const std::vector<std::byte> saved = Save(*engine_, slot);

  ASSERT_TRUE(engine_->CopySlot(slot, copy).ok());
  ASSERT_TRUE(engine_->LoadSlot(saved, loaded).ok());

  EXPECT_EQ(Save(*engine_, copy), saved);
  EXPECT_EQ(Save(*engine_, loaded), saved);
  const auto next = std::span(tokens_).subspan(90, 80);
  const auto scores = FeedInPieces(*engine_, slot, next, 40, 90);
  EXPECT_EQ(Bits(FeedInPieces(*engine_, copy, next, 40, 90)), Bits(scores));
  EXPECT_EQ(Bits(FeedInPieces(*engine_, loaded, next, 40, 90)), Bits(scores));
  EXPECT_EQ(ContinueGreedily(*engine_, copy, 9),
            ContinueGreedily(*engine_, slot, 9));
  for (const int32_t used : {slot, copy, loaded}) engine_->ReleaseSlot(used);
}

void FamiliesTest::ExpectNothingOfAFreedSlot() {
  for (const size_t piece : {60, 3, 1}) {
    SCOPED_TRACE(piece);
    const auto text = std::span(tokens_).first(60);
    const int32_t slot = *engine_->AcquireSlot();
    const auto expected = FeedInPieces(*engine_, slot, text, piece);
    engine_->ReleaseSlot(slot);
    const int32_t again = *engine_->AcquireSlot();
    ASSERT_EQ(again, slot);
    EXPECT_EQ(Bits(FeedInPieces(*engine_, again, text, piece)), Bits(expected));
    engine_->ReleaseSlot(again);
  }
}

TEST_P(FamiliesTest, IsServedAsOnTheCpuOrRefused) {
  if (engine_ == nullptr) return;
  ExpectScoresInRowsOfAnyLength();
  ExpectScoresAmongOthers();
  ExpectCopiesGoOnAlike();
  ExpectNothingOfAFreedSlot();
  const absl::Status computes = engine::SelfTest(*engine_, folder_);
  EXPECT_TRUE(computes.ok()) << computes;
  EXPECT_EQ(engine_->slots_free(), kSlots);
  std::printf("%-32s scores within %.1e, their mean within %.1e bits\n",
              family().name.c_str(),
              worst_,
              worst_bits_);
}

}  // namespace
}  // namespace weir::gpu
