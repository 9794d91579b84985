// SPDX-License-Identifier: Apache-2.0
//
// The configurations of the RWKV families.
#include <string>
#include <vector>

#include "engine/mixers/channel_mix.h"
#include "engine/mixers/rwkv4.h"
#include "engine/mixers/rwkv6.h"
#include "engine/mixers/rwkv7.h"
#include "engine/model/config.h"
#include "gtest/gtest.h"
#include "tests/engine/config_case.h"

namespace weir::engine {
namespace {

using nlohmann::json;

TEST(ParseConfigTest, RefusesRwkv4ValuesOutOfRangeByTheirKey) {
  ExpectRefused(ConfigOf("tests/golden/rwkv"),
                {
                    {"attention_hidden_size", "0"},
                    {"attention_hidden_size", "\"64\""},
                    {"intermediate_size", "-1"},
                    {"layer_norm_epsilon", "0"},
                    {"context_length", "0"},
                    {"norm_eps", "1e-5"},
                    {"head_dim", "64"},
                });
}

TEST(ParseConfigTest, RefusesRwkv6ValuesOutOfRangeByTheirKey) {
  ExpectRefused(ConfigOf("tests/golden/fla_rwkv6"),
                {
                    {"num_heads", "0"},
                    {"expand_k", "0.3"},
                    {"expand_k", "0"},
                    {"expand_k", "NaN"},
                    {"expand_v", "-1"},
                    {"expand_v", "1.02"},
                    {"proj_low_rank_dim", "0"},
                    {"gate_low_rank_dim", "1e9"},
                    {"norm_eps", "-1"},
                    {"hidden_act", "\"silu\""},
                    {"intermediate_size", "0"},
                    {"attn", R"({"layers":[1],"num_heads":2})"},
                    {"head_dim", "32"},
                });
}

TEST(ParseConfigTest, RefusesRwkv7ValuesOutOfRangeByTheirKey) {
  ExpectRefused(ConfigOf("tests/golden/fla_rwkv7"),
                {
                    {"num_hidden_layers", "0"},
                    {"head_dim", "0"},
                    {"head_dim", "24"},
                    {"head_dim", "128"},
                    {"head_dim", "2.5"},
                    {"num_heads", "3"},
                    {"num_heads", "0"},
                    {"value_dim", "[64]"},
                    {"value_dim", "[64, 32]"},
                    {"value_dim", "[]"},
                    {"value_dim", "[65, 65]"},
                    {"value_dim", "[-64, -64]"},
                    {"value_dim", "0"},
                    {"value_dim", "\"64\""},
                    {"value_dim", "1e30"},
                    {"value_dim", "18446744073709551615"},
                    {"decay_low_rank_dim", "0"},
                    {"a_low_rank_dim", "-1"},
                    {"v_low_rank_dim", "\"8\""},
                    {"gate_low_rank_dim", "1e9"},
                    {"norm_eps", "0"},
                    {"norm_eps", "NaN"},
                    {"norm_bias", "1"},
                    {"norm_first", "\"yes\""},
                    {"fuse_norm", "0"},
                    {"hidden_act", "\"relu\""},
                    {"hidden_ratio", "-1"},
                    {"intermediate_size", "0"},
                    {"attn", R"({"layers":[1],"num_heads":2})"},
                    {"attn_mode", "\"parallel\""},
                    {"expand_v", "1"},
                });
}

TEST(ParseConfigTest, ReadsRwkv4) {
  json config = ConfigOf("tests/golden/rwkv");
  config["layer_norm_epsilon"] = 1e-6;

  const DecoderSpec parsed = Accepted(config);

  EXPECT_EQ(parsed.family, "rwkv");
  EXPECT_EQ(parsed.trained_length, 8192u);
  EXPECT_FLOAT_EQ(parsed.norm.eps, 1e-6F);
  EXPECT_FLOAT_EQ(parsed.final_eps.value_or(0), 1e-5F);
  EXPECT_EQ(As<Rwkv4>(LayerOf(parsed)[0]).channels(), 64);
  EXPECT_EQ(As<ChannelMix>(LayerOf(parsed)[1]).intermediate(), 128);
  config["attention_hidden_size"] = nullptr;
  config["intermediate_size"] = nullptr;
  config["hidden_size"] = 96;
  const auto open = Parse(config);
  EXPECT_EQ(As<Rwkv4>(LayerOf(*open)[0]).channels(), 96);
  EXPECT_EQ(As<ChannelMix>(LayerOf(*open)[1]).intermediate(), 384);
}

TEST(ParseConfigTest, ReadsRwkv6) {
  json config = ConfigOf("tests/golden/fla_rwkv6");

  const DecoderSpec parsed = Accepted(config);

  EXPECT_EQ(parsed.family, "rwkv6");
  EXPECT_EQ(parsed.names.first_norm, "model.layers.0.pre_norm");
  EXPECT_EQ(As<ChannelMix>(LayerOf(parsed)[1]).intermediate(), 96);
  const Rwkv6Shape shape = As<Rwkv6>(LayerOf(parsed)[0]).shape();
  EXPECT_EQ(shape.heads, 2);
  EXPECT_EQ(shape.key_dim, 16);
  EXPECT_EQ(shape.value_dim, 32);
  EXPECT_EQ(shape.mix_rank, 8);
  EXPECT_FLOAT_EQ(shape.eps, 1e-5F);
  config.erase("intermediate_size");
  config.erase("hidden_ratio");
  config["hidden_size"] = 200;
  EXPECT_EQ(As<ChannelMix>(LayerOf(*Parse(config))[1]).intermediate(), 704);
}

TEST(ParseConfigTest, ReadsRwkv7) {
  json config = ConfigOf("tests/golden/fla_rwkv7");

  const DecoderSpec parsed = Accepted(config);

  EXPECT_EQ(parsed.family, "rwkv7");
  EXPECT_TRUE(parsed.norm.centered);
  EXPECT_TRUE(parsed.norm.bias);
  EXPECT_EQ(parsed.names.first_norm, "model.layers.0.pre_norm");
  EXPECT_EQ(As<ChannelMix>(LayerOf(parsed)[1]).intermediate(), 96);
  const Rwkv7Shape shape = As<Rwkv7>(LayerOf(parsed)[0]).shape();
  EXPECT_EQ(shape.heads, 2);
  EXPECT_EQ(shape.key_dim, 32);
  EXPECT_EQ(shape.value_dim, 32);
  EXPECT_EQ(shape.gate_rank, 8);
  EXPECT_TRUE(shape.first);
  EXPECT_FLOAT_EQ(shape.eps, 32e-5F);
  EXPECT_FALSE(As<Rwkv7>(parsed.make_layer(1)[0]).shape().first);
}

TEST(ParseConfigTest, WhatRwkv7LeavesOpenFollowsTheRules) {
  json config = ConfigOf("tests/golden/fla_rwkv7");
  config["hidden_size"] = 2048;
  config["head_dim"] = nullptr;
  config["num_heads"] = 32;
  config["norm_first"] = false;
  config["fuse_norm"] = false;
  for (const char* key : {"value_dim",
                          "intermediate_size",
                          "hidden_ratio",
                          "decay_low_rank_dim",
                          "a_low_rank_dim",
                          "v_low_rank_dim",
                          "gate_low_rank_dim"}) {
    config.erase(key);
  }

  const DecoderSpec parsed = Accepted(config);

  EXPECT_TRUE(parsed.names.first_norm.empty());
  EXPECT_EQ(As<ChannelMix>(LayerOf(parsed)[1]).intermediate(), 8192);
  const Rwkv7Shape shape = As<Rwkv7>(LayerOf(parsed)[0]).shape();
  EXPECT_EQ(shape.key_dim, 64);
  EXPECT_EQ(shape.value_dim, 64);
  EXPECT_EQ(shape.decay_rank, 128);  // 113 to the nearest multiple of 32
  EXPECT_EQ(shape.rate_rank, 128);
  EXPECT_EQ(shape.value_rank, 64);
  EXPECT_EQ(shape.gate_rank, 224);
  EXPECT_FLOAT_EQ(shape.length_eps, 1e-24F);
}

}  // namespace
}  // namespace weir::engine
