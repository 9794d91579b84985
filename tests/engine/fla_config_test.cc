// SPDX-License-Identifier: Apache-2.0
//
// The configurations of flash-linear-attention's mixers.
#include <string>
#include <vector>

#include "engine/mixers/delta_net.h"
#include "engine/mixers/gated_delta_product.h"
#include "engine/mixers/gated_linear_attention.h"
#include "engine/mixers/hgrn2.h"
#include "engine/mixers/kda.h"
#include "engine/mixers/linear_attention.h"
#include "gtest/gtest.h"
#include "tests/engine/config_case.h"

namespace weir::engine {
namespace {

using nlohmann::json;

TEST(ParseConfigTest, RefusesDeltaNetValuesOutOfRangeByTheirKey) {
  ExpectRefused(ConfigOf("tests/golden/fla_delta_net"),
                {
                    {"num_heads", "0"},
                    {"expand_k", "0"},
                    {"expand_k", "0.1"},
                    {"expand_v", "17"},
                    {"use_beta", "1"},
                    {"qk_norm", "\"l1\""},
                    {"qk_activation", "\"gelu\""},
                    {"use_output_norm", "false"},
                    {"feature_map", "\"elu\""},
                },
                {kBadFlaDecoder, kBadShortConvolution});
}

TEST(ParseConfigTest, ReadsWhatFollowsTheProductsOfQueriesAndKeys) {
  json config = ConfigOf("tests/golden/fla_delta_net");
  DeltaNetShape shape = ShapeOf<DeltaNet>(config);
  EXPECT_EQ(shape.norm, HeadNorm::kL2);
  EXPECT_TRUE(shape.qkv.qk_silu);
  EXPECT_EQ(shape.qkv.qk_map, Activation::kNone);

  config["qk_norm"] = "sum";
  config["qk_activation"] = "elu";
  shape = ShapeOf<DeltaNet>(config);
  EXPECT_EQ(shape.norm, HeadNorm::kL1);
  EXPECT_FALSE(shape.qkv.qk_silu);
  EXPECT_EQ(shape.qkv.qk_map, Activation::kEluPlusOne);

  config["qk_activation"] = "identity";
  shape = ShapeOf<DeltaNet>(config);
  EXPECT_FALSE(shape.qkv.qk_silu);
  EXPECT_EQ(shape.qkv.qk_map, Activation::kNone);

  config = ConfigOf("tests/golden/fla_gla");
  config["feature_map"] = "swish";
  EXPECT_EQ(ShapeOf<GatedLinearAttention>(config).qkv.qk_map,
            Activation::kSilu);
}

TEST(ParseConfigTest, RefusesKdaValuesOutOfRangeByTheirKey) {
  ExpectRefused(ConfigOf("tests/golden/fla_kda"),
                {
                    {"lower_bound", "1"},
                    {"lower_bound", "NaN"},
                    {"safe_gate", "true"},
                },
                {kBadFlaDecoder, kBadShortConvolution, kBadValueHeads});
}

// Gated DeltaNet's, whose keys are nearly the same.
json DeltaProductConfig() {
  json config = ConfigOf("tests/golden/fla_gated_deltanet");
  config["model_type"] = "gated_deltaproduct";
  config.erase("use_gate");
  config.erase("output_gate_activation");
  return config;
}

TEST(ParseConfigTest, RefusesDeltaProductValuesOutOfRangeByTheirKey) {
  ExpectRefused(DeltaProductConfig(),
                {
                    {"num_householder", "0"},
                    {"num_householder", "33"},
                    {"use_forget_gate", "1"},
                    {"use_output_gate", "\"yes\""},
                    {"attn_mode", "\"fused_chunk\""},
                    {"use_gate", "true"},
                },
                {kBadFlaDecoder, kBadShortConvolution, kBadValueHeads});
}

TEST(ParseConfigTest, ReadsDeltaProductAsItsAuthorsDoWhereKeysAreMissing) {
  GatedDeltaProductShape shape =
      ShapeOf<GatedDeltaProduct>(DeltaProductConfig());
  EXPECT_EQ(shape.qkv.writes, 1);
  EXPECT_FALSE(shape.decay);
  EXPECT_TRUE(shape.gate);
  EXPECT_FALSE(shape.negative_eigenvalues);
  EXPECT_EQ(shape.qkv.conv_width, 4);

  json config = DeltaProductConfig();
  config["num_householder"] = 3;
  config["use_forget_gate"] = true;
  config["use_output_gate"] = false;
  config["use_short_conv"] = false;
  config["allow_neg_eigval"] = true;
  shape = ShapeOf<GatedDeltaProduct>(config);
  EXPECT_EQ(shape.qkv.writes, 3);
  EXPECT_TRUE(shape.decay);
  EXPECT_FALSE(shape.gate);
  EXPECT_TRUE(shape.negative_eigenvalues);
  EXPECT_EQ(shape.qkv.conv_width, 0);
}

TEST(ParseConfigTest, RefusesGlaValuesOutOfRangeByTheirKey) {
  ExpectRefused(ConfigOf("tests/golden/fla_gla"),
                {
                    {"expand_k", "0.01"},
                    {"gate_logit_normalizer", "0"},
                    {"clamp_min", "1"},
                    {"feature_map", "\"elu\""},
                    {"use_gk", "false"},
                    {"use_gv", "true"},
                },
                {kBadFlaDecoder, kBadShortConvolution, kBadSharedHeads});
}

TEST(ParseConfigTest, RefusesHgrn2ValuesOutOfRangeByTheirKey) {
  ExpectRefused(ConfigOf("tests/golden/fla_hgrn2"),
                {
                    {"expand_ratio", "0"},
                    {"expand_ratio", "15"},
                    {"use_short_conv", "true"},
                    {"use_lower_bound", "0"},
                    {"attn_mode", "\"parallel\""},
                },
                {kBadFlaDecoder});
}

TEST(ParseConfigTest, RefusesRetNetValuesOutOfRangeByTheirKey) {
  ExpectRefused(ConfigOf("tests/golden/fla_retnet"),
                {
                    {"expand_k", "0.015625"},
                    {"expand_k", "0.046875"},
                    {"expand_v", "0"},
                    {"feature_map", "\"elu\""},
                },
                {kBadFlaDecoder, kBadShortConvolution, kBadSharedHeads});
}

TEST(ParseConfigTest, RefusesLinearAttentionValuesOutOfRangeByTheirKey) {
  ExpectRefused(ConfigOf("tests/golden/fla_linear_attn"),
                {
                    {"expand_v", "0.01"},
                    {"feature_map", "\"favor\""},
                    {"feature_map", "1"},
                    {"tie_feature_map_qk", "\"q\""},
                    {"norm_q", "1"},
                    {"norm_k", "0"},
                    {"norm_feature_map", "1"},
                },
                {kBadFlaDecoder, kBadSharedHeads});
}

TEST(ParseConfigTest, ReadsTheFeaturesOfLinearAttention) {
  json config = ConfigOf("tests/golden/fla_linear_attn");
  config.erase("feature_map");
  const DecoderSpec bare = Accepted(config);
  EXPECT_EQ(As<LinearAttention>(LayerOf(bare)[0]).shape().feature,
            FeatureKind::kElementwiseProduct);
  EXPECT_TRUE(bare.unused.empty());

  config["feature_map"] = "hedgehog";
  config["tie_feature_map_qk"] = true;
  config["norm_k"] = true;
  const DecoderSpec tied = Accepted(config);
  const LinearAttentionShape shape =
      As<LinearAttention>(LayerOf(tied)[0]).shape();
  EXPECT_EQ(shape.feature, FeatureKind::kHedgehog);
  EXPECT_TRUE(shape.tied);
  EXPECT_FALSE(shape.divided_queries);
  EXPECT_TRUE(shape.divided_keys);
  ASSERT_EQ(tied.unused.size(), 4U);
  EXPECT_EQ(tied.unused[3].name,
            "model.layers.1.attn.feature_map_q.layer.bias");
}

TEST(ParseConfigTest, ReadsTheOptionsOfTheFlaFamilies) {
  json config = ConfigOf("tests/golden/fla_kda");
  config["lower_bound"] = -5;
  config["safe_gate"] = true;
  config["num_v_heads"] = 4;
  const KdaShape kda_shape = ShapeOf<Kda>(config);
  EXPECT_EQ(kda_shape.bound, -5);
  EXPECT_EQ(kda_shape.qkv.heads, 4);
  EXPECT_EQ(kda_shape.qkv.key_heads, 2);

  config = ConfigOf("tests/golden/fla_delta_net");
  config["use_gate"] = true;
  config["use_short_conv"] = false;
  const DeltaNetShape delta_shape = ShapeOf<DeltaNet>(config);
  EXPECT_TRUE(delta_shape.gate);
  EXPECT_EQ(delta_shape.qkv.conv_width, 0);

  config = ConfigOf("tests/golden/fla_gla");
  config["gate_logit_normalizer"] = 8;
  config["clamp_min"] = -3;
  const GatedLinearAttentionShape gla_shape =
      ShapeOf<GatedLinearAttention>(config);
  EXPECT_EQ(gla_shape.normalizer, 8);
  EXPECT_EQ(gla_shape.low, -3);
  EXPECT_EQ(gla_shape.qkv.key_dim, 16);

  config = ConfigOf("tests/golden/fla_hgrn2");
  config["use_lower_bound"] = false;
  const DecoderSpec hgrn2 = Accepted(config);
  EXPECT_TRUE(hgrn2.shared.empty());
}

}  // namespace
}  // namespace weir::engine
