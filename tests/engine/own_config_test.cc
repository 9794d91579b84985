// SPDX-License-Identifier: Apache-2.0
//
// The configurations of layouts of our own, docs/checkpoints.md.
#include <string>
#include <vector>

#include "engine/mixers/gdn2.h"
#include "engine/mixers/lightning.h"
#include "engine/mixers/simple_gla.h"
#include "gtest/gtest.h"
#include "tests/engine/config_case.h"

namespace weir::engine {
namespace {

using nlohmann::json;

json ConfigFor(const char* model_type) {
  return {{"model_type", model_type},
          {"hidden_size", 64},
          {"num_hidden_layers", 2},
          {"vocab_size", 259},
          {"num_heads", 4}};
}

TEST(ParseConfigTest, RefusesSimpleGlaValuesOutOfRangeByTheirKey) {
  ExpectRefused(ConfigFor("weir_simple_gla"),
                {
                    {"expand_k", "0.01"},
                    {"expand_v", "17"},
                    {"gate_fn", "\"gelu\""},
                    {"fuse_norm", "1"},
                    {"gate_logit_normalizer", "0"},
                    {"feature_map", "\"relu\""},
                    {"attn_mode", "\"fused_chunk\""},
                    {"use_output_gate", "true"},
                },
                {kBadFlaDecoder, kBadShortConvolution, kBadSharedHeads});
}

TEST(ParseConfigTest, ReadsSimpleGla) {
  json config = ConfigFor("weir_simple_gla");
  SimpleGlaShape shape = ShapeOf<SimpleGla>(config);
  EXPECT_EQ(shape.qkv.heads, 4);
  EXPECT_EQ(shape.qkv.key_dim, 16);
  EXPECT_EQ(shape.qkv.value_dim, 16);
  EXPECT_EQ(shape.qkv.conv_width, 4);
  EXPECT_EQ(shape.gate, GateKind::kSilu);
  EXPECT_TRUE(shape.fused_norm);
  EXPECT_EQ(shape.normalizer, 16);

  config["expand_v"] = 2;
  config["use_short_conv"] = false;
  config["gate_fn"] = "sigmoid";
  config["gate_logit_normalizer"] = 8;
  shape = ShapeOf<SimpleGla>(config);
  EXPECT_EQ(shape.qkv.value_dim, 32);
  EXPECT_EQ(shape.qkv.conv_width, 0);
  EXPECT_EQ(shape.gate, GateKind::kSigmoid);
  EXPECT_FALSE(shape.fused_norm);
  EXPECT_EQ(shape.normalizer, 8);
}

TEST(ParseConfigTest, RefusesLightningValuesOutOfRangeByTheirKey) {
  ExpectRefused(ConfigFor("weir_lightning"),
                {
                    {"num_heads", "0"},
                    {"num_heads", "3"},
                    {"num_heads", "128"},
                    {"head_dim", "0"},
                    {"head_dim", "1025"},
                    {"slopes", "\"alibi\""},
                    {"slopes", "1"},
                    {"block_size", "256"},
                },
                {kBadFlaDecoder});
}

TEST(ParseConfigTest, ReadsLightning) {
  json config = ConfigFor("weir_lightning");
  LightningShape shape = ShapeOf<Lightning>(config);
  EXPECT_EQ(shape.heads, 4);
  EXPECT_EQ(shape.head_dim, 16);
  EXPECT_EQ(shape.slopes, Slopes::kMiniMax);

  config["num_heads"] = 3;
  config["head_dim"] = 24;
  config["slopes"] = "fla";
  shape = ShapeOf<Lightning>(config);
  EXPECT_EQ(shape.head_dim, 24);
  EXPECT_EQ(shape.slopes, Slopes::kFla);
}

json Gdn2Config() {
  json config = ConfigFor("weir_gdn2");
  config["head_dim"] = 16;
  return config;
}

TEST(ParseConfigTest, RefusesGdn2ValuesOutOfRangeByTheirKey) {
  ExpectRefused(Gdn2Config(),
                {
                    {"num_heads", "0"},
                    {"num_v_heads", "6"},
                    {"num_v_heads", "2"},
                    {"head_dim", "null"},
                    {"attn_mode", "\"parallel\""},
                    {"lower_bound", "-5"},
                },
                {kBadFlaDecoder, kBadShortConvolution, kBadValueHeads});
}

TEST(ParseConfigTest, ReadsGdn2) {
  json config = Gdn2Config();
  Gdn2Shape shape = ShapeOf<Gdn2>(config);
  EXPECT_EQ(shape.qkv.heads, 4);
  EXPECT_EQ(shape.qkv.key_heads, 4);
  EXPECT_EQ(shape.qkv.value_dim, 16);
  EXPECT_EQ(shape.qkv.conv_width, 4);
  EXPECT_FALSE(shape.negative_eigenvalues);

  config["num_v_heads"] = 8;
  config["expand_v"] = 0.5;
  config["allow_neg_eigval"] = true;
  shape = ShapeOf<Gdn2>(config);
  EXPECT_EQ(shape.qkv.heads, 8);
  EXPECT_EQ(shape.qkv.key_heads, 4);
  EXPECT_EQ(shape.qkv.value_dim, 8);
  EXPECT_TRUE(shape.negative_eigenvalues);
}

}  // namespace
}  // namespace weir::engine
