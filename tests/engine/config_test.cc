// SPDX-License-Identifier: Apache-2.0
#include "engine/model/config.h"

#include <cmath>
#include <filesystem>
#include <map>
#include <string>
#include <vector>

#include "engine/mixers/feed_forward.h"
#include "engine/mixers/gated_delta_net.h"
#include "engine/mixers/mamba.h"
#include "engine/mixers/mamba2.h"
#include "engine/mixers/mlstm.h"
#include "engine/mixers/registry.h"
#include "gtest/gtest.h"
#include "nlohmann/json.hpp"
#include "tests/engine/config_case.h"
#include "tests/engine/source_path.h"

namespace weir::engine {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;

json GatedDeltaNetConfig() {
  return ConfigOf("tests/golden/fla_gated_deltanet");
}

json Mamba2Config() { return ConfigOf("tests/golden/mamba2"); }

int64_t IntermediateOf(const DecoderSpec& spec) {
  return As<SwiGlu>(LayerOf(spec)[1]).intermediate();
}

GatedDeltaNetShape GatedDeltaNetOf(const DecoderSpec& spec) {
  return As<GatedDeltaNet>(LayerOf(spec)[0]).shape();
}

Mamba2Shape Mamba2Of(const DecoderSpec& spec) {
  return As<Mamba2>(LayerOf(spec)[0]).shape();
}

MambaShape MambaOf(const DecoderSpec& spec) {
  return As<Mamba>(LayerOf(spec)[0]).shape();
}

TEST(ParseConfigTest, RefusesValuesOutOfRangeByTheirKey) {
  ExpectRefused(GatedDeltaNetConfig(),
                {
                    {"num_hidden_layers", "-1"},
                    {"num_hidden_layers", "1000000000"},
                    {"num_hidden_layers", "18446744073709551615"},
                    {"num_hidden_layers", "2.5"},
                    {"num_hidden_layers", "\"2\""},
                    {"num_hidden_layers", "true"},
                    {"num_hidden_layers", "null"},
                    {"hidden_size", "-64"},
                    {"hidden_size", "[64]"},
                    {"vocab_size", "1000000000000"},
                    {"head_dim", "1000000"},
                    {"expand_v", "-2"},
                    {"expand_v", "0.7"},
                    {"expand_v", "NaN"},
                    {"expand_v", "1e30"},
                    {"norm_eps", "NaN"},
                    {"norm_eps", "Infinity"},
                    {"norm_eps", "-1e-6"},
                    {"norm_eps", "\"1e-6\""},
                    {"hidden_ratio", "NaN"},
                    {"hidden_act", "\"relu\""},
                    {"output_gate_activation", "\"tanh\""},
                    {"use_gate", "1"},
                    {"attn", R"({"layers":[1],"num_heads":2})"},
                    {"attn_mode", "\"parallel\""},
                    {"auto_map", R"({"AutoModel":"model.Model"})"},
                    {"quantization_config", R"({"bits":4})"},
                    {"rope_theta", "10000"},
                    {"expand_k", "1"},
                },
                {kBadFlaDecoder, kBadShortConvolution, kBadValueHeads});
}

TEST(ParseConfigTest, RefusesMamba2ValuesOutOfRangeByTheirKey) {
  ExpectRefused(Mamba2Config(),
                {
                    {"num_hidden_layers", "0"},
                    {"num_heads", "0"},
                    {"head_dim", "-1"},
                    {"n_groups", "3"},
                    {"n_groups", "0"},
                    {"state_size", "0"},
                    {"state_size", "1e3"},
                    {"expand", "3"},
                    {"expand", "NaN"},
                    {"conv_kernel", "0"},
                    {"layer_norm_epsilon", "NaN"},
                    {"layer_norm_epsilon", "0"},
                    {"use_bias", "3"},
                    {"use_conv_bias", "\"\""},
                    {"time_step_limit", "[0.1]"},
                    {"time_step_limit", "[0.2, 0.1]"},
                    {"time_step_limit", "[-1, 0.1]"},
                    {"time_step_limit", "[NaN, 0.1]"},
                    {"time_step_limit", "[0.1, NaN]"},
                    {"time_step_limit", "[Infinity, Infinity]"},
                    {"time_step_limit", "0.1"},
                    {"hidden_act", "\"gelu\""},
                    {"intermediate_size", "64"},
                    {"rms_norm", "false"},
                    {"layer_norm_epsilon", "1e-50"},
                    {"auto_map", "{}"},
                });
}

TEST(ParseConfigTest, RefusesMambaValuesOutOfRangeByTheirKey) {
  ExpectRefused(ConfigOf("tests/golden/falcon_mamba"),
                {
                    {"num_hidden_layers", "0"},
                    {"state_size", "0"},
                    {"state_size", "100000"},
                    {"time_step_rank", "0"},
                    {"time_step_rank", "\"all\""},
                    {"intermediate_size", "0"},
                    {"expand", "0"},
                    {"conv_kernel", "1"},
                    {"layer_norm_epsilon", "0"},
                    {"mixer_rms_eps", "0"},
                    {"mixer_rms_eps", "NaN"},
                    {"use_bias", "1"},
                    {"hidden_act", "\"gelu\""},
                    {"tie_word_embeddings", "\"no\""},
                    {"d_model", "65"},
                    {"d_inner", "64"},
                    {"n_layer", "3"},
                    {"rms_norm", "false"},
                    {"ssm_cfg", R"({"d_state":8})"},
                    {"n_groups", "1"},
                });
  ExpectRefused(ConfigOf("tests/golden/mamba"), {{"mixer_rms_eps", "1e-6"}});
}

TEST(ParseConfigTest, RefusesWhatIsNoConfiguration) {
  for (const char* text :
       {"",
        "[]",
        "{",
        "{}",
        "\xff",
        R"({"model_type":1})",
        R"({"model_type":"llama"})",
        R"({"model_type":"mamba2"})",
        R"({"model_type":"mamba2","model_type":"mamba2"})"}) {
    const auto parsed = ParseConfig(text, "config.json");
    ASSERT_FALSE(parsed.ok()) << text;
    EXPECT_EQ(std::string(parsed.status().message()).rfind("CONFIG", 0), 0u)
        << parsed.status();
  }
}

// One folder's norm spans all channels, the other's a group of them.
TEST(ParseConfigTest, TellsTheFormatsOfOneModelTypeApart) {
  json config = Mamba2Config();
  ASSERT_EQ(Mamba2Of(*Parse(config)).groups, 2);
  EXPECT_EQ(Mamba2Of(*Parse(config)).norm_groups, 1);
  config.erase("layer_norm_epsilon");
  config["norm_eps"] = 2e-5;

  ASSERT_TRUE(Parse(config).ok()) << Parse(config).status();
  EXPECT_EQ(Mamba2Of(*Parse(config)).norm_groups, 2);
  EXPECT_FLOAT_EQ(Mamba2Of(*Parse(config)).eps, 2e-5f);
  config["layer_norm_epsilon"] = 1e-5;
  EXPECT_FALSE(Parse(config).ok());
}

TEST(ParseConfigTest, ReadsTheFormatsOfFlashLinearAttention) {
  json config = ConfigOf("tests/golden/fla_mamba2");
  config["norm_before_gate"] = true;
  config["dt_limit"] = {0.01, 0.5};
  config["n_groups"] = 4;
  config.erase("num_heads");

  const DecoderSpec parsed = Accepted(config);

  const Mamba2Shape shape = Mamba2Of(parsed);
  EXPECT_EQ(shape.heads, 8);
  EXPECT_EQ(shape.norm_groups, 4);
  EXPECT_EQ(shape.order, GateOrder::kAfterNorm);
  EXPECT_FLOAT_EQ(shape.dt_min, 0.01f);
  EXPECT_FLOAT_EQ(shape.dt_max, 0.5f);
  ExpectRefused(config,
                {{"D_has_hdim", "true"},
                 {"rmsnorm", "false"},
                 {"norm_before_gate", "1"},
                 {"dt_limit", "[0.5, 0.1]"},
                 {"n_groups", "3"},
                 {"norm_eps", "0"},
                 {"attn", "{}"}});
  const DecoderSpec mamba = Accepted(ConfigOf("tests/golden/fla_mamba"));
  EXPECT_EQ(MambaOf(mamba).dt_rank, 4);
  EXPECT_FALSE(mamba.tied);
}

json OfficialMamba2Config() {
  return json::parse(R"({
    "d_model": 768, "d_intermediate": 0, "n_layer": 24, "vocab_size": 50277,
    "ssm_cfg": {"layer": "Mamba2"}, "attn_layer_idx": [], "attn_cfg": {},
    "rms_norm": true, "residual_in_fp32": true, "fused_add_norm": true,
    "pad_vocab_size_multiple": 16, "tie_embeddings": true})");
}

TEST(ParseConfigTest, ReadsTheOfficialFormatOfMamba2) {
  const DecoderSpec parsed = Accepted(OfficialMamba2Config());

  EXPECT_EQ(parsed.family, "mamba2");
  EXPECT_EQ(parsed.vocabulary, 50288);
  EXPECT_EQ(parsed.layers, 24);
  EXPECT_TRUE(parsed.tied);
  EXPECT_EQ(parsed.names.embedding, "backbone.embedding.weight");
  const Mamba2Shape shape = Mamba2Of(parsed);
  EXPECT_EQ(shape.heads, 24);
  EXPECT_EQ(shape.head_dim, 64);
  EXPECT_EQ(shape.state_dim, 128);
  EXPECT_EQ(shape.norm_groups, 1);
  EXPECT_FLOAT_EQ(shape.eps, 1e-5f);
  ExpectRefused(OfficialMamba2Config(),
                {{"d_intermediate", "2048"},
                 {"attn_layer_idx", "[3]"},
                 {"rms_norm", "false"},
                 {"pad_vocab_size_multiple", "0"},
                 {"ssm_cfg", "[]"},
                 {"ssm_cfg", "{}"},
                 {"ssm_cfg", R"({"layer":"Mamba1"})"},
                 {"ssm_cfg", R"({"layer":"Mamba2","d_ssm":512})"},
                 {"ssm_cfg", R"({"layer":"Mamba2","ngroups":7})"},
                 {"ssm_cfg", R"({"layer":"Mamba2","unheard":7})"},
                 {"hidden_size", "768"}});
}

TEST(ParseConfigTest, CodeOfAFoldersOwnIsNeverRun) {
  json config = ConfigOf("tests/golden/fla_rwkv7");
  EXPECT_TRUE(Parse(config)->notes.empty());
  config["auto_map"] = {{"AutoConfig", "modeling_rwkv7.RWKV7Config"},
                        {"AutoModel", "modeling_rwkv7.RWKV7Model"},
                        {"AutoModelForCausalLM",
                         "other/repository--modeling_rwkv7.RWKV7ForCausalLM"},
                        {"AutoTokenizer", {"tokens.Tokenizer", nullptr}}};

  const DecoderSpec parsed = Accepted(config);

  ASSERT_EQ(parsed.notes.size(), 1u);
  EXPECT_NE(parsed.notes[0].find("not run"), std::string::npos);
  ExpectRefused(config,
                {{"auto_map", "[]"},
                 {"auto_map", "{}"},
                 {"auto_map", "\"modeling_rwkv7.RWKV7Model\""},
                 {"auto_map", R"({"AutoModel":"model.Model"})"},
                 {"auto_map", R"({"AutoModel":"model.RWKV7MoeModel"})"},
                 {"auto_map", R"({"AutoModel":"model.RWKV6Model"})"},
                 {"auto_map", R"({"AutoModel":["model.RWKV7Model"]})"},
                 {"auto_map", R"({"AutoModel":""})"}});
}

json AutoMapOf(const std::string& classes) {
  return {{"AutoConfig", "configuration_x." + classes + "Config"},
          {"AutoModel", "modeling_x." + classes + "Model"},
          {"AutoModelForCausalLM", "modeling_x." + classes + "ForCausalLM"}};
}

// "RWKV7" of "RWKV7ForCausalLM", which the authors' code wrote itself.
std::string ClassesOf(const json& config) {
  const std::string name = config.at("architectures").at(0);
  return name.substr(0, name.find("ForCausalLM"));
}

bool IsRefusedForItsAutoMap(const json& config) {
  const absl::StatusOr<DecoderSpec> parsed = Parse(config);
  return !parsed.ok() && parsed.status().message().find("key \"auto_map\"") !=
                             std::string::npos;
}

// By the names in the checkpoints that the authors' code made. A layout of our
// own has no such code; a class of its name would be taken.
TEST(ParseConfigTest, TheOwnClassesOfEveryFamilyAreKnown) {
  std::map<std::string, std::string> classes;
  for (const auto& entry : fs::directory_iterator(SourcePath("tests/golden"))) {
    if (!fs::exists(entry.path() / "config.json")) continue;
    const std::string name = entry.path().filename().string();
    SCOPED_TRACE(name);
    json config = ConfigOf("tests/golden/" + name);
    classes[config.at("model_type")] = ClassesOf(config);
    config["auto_map"] = AutoMapOf(ClassesOf(config));

    EXPECT_TRUE(Parse(config).ok()) << Parse(config).status();
  }
  for (const Family& family : Families()) {
    const std::string type = family.model_type;
    SCOPED_TRACE(type);
    const bool ours = type.starts_with("weir_");
    EXPECT_EQ(classes.contains(type), !ours);
    const std::string own = ours ? type : classes[type];
    json config = {{"model_type", type}};
    config["auto_map"] = AutoMapOf(own);
    EXPECT_FALSE(IsRefusedForItsAutoMap(config)) << Parse(config).status();
    for (const char* use :
         {"AutoConfig", "AutoModel", "AutoModelForCausalLM"}) {
      config["auto_map"] = AutoMapOf(own);
      config["auto_map"][use] = AutoMapOf(own + "Moe")[use];
      EXPECT_TRUE(IsRefusedForItsAutoMap(config)) << use;
    }
  }
  json unnamed = OfficialMamba2Config();
  unnamed["auto_map"] = AutoMapOf("Mamba2");
  EXPECT_TRUE(Parse(unnamed).ok()) << Parse(unnamed).status();
  json other = ConfigOf("tests/golden/fla_linear_attn");
  other["auto_map"] = AutoMapOf("LinearAttn");
  EXPECT_TRUE(IsRefusedForItsAutoMap(other));
}

TEST(ParseConfigTest, PassesOverKeysOfNoEffect) {
  json config = GatedDeltaNetConfig();
  config["_name_or_path"] = "x";
  config["_anything"] = json::object({{"deep", {1, 2, 3}}});
  config["torch_dtype"] = "bfloat16";
  config["id2label"] = {{"0", "LABEL_0"}};
  config["eos_token_id"] = {1, 2};

  EXPECT_TRUE(Parse(config).ok()) << Parse(config).status();

  config = Mamba2Config();
  config["norm_before_gate"] = true;

  EXPECT_TRUE(Parse(config).ok()) << Parse(config).status();
}

TEST(ParseConfigTest, ReadsGatedDeltaNet) {
  const DecoderSpec parsed = Accepted(GatedDeltaNetConfig());

  EXPECT_EQ(parsed.family, "gated_deltanet");
  EXPECT_EQ(parsed.layers, 2);
  EXPECT_EQ(parsed.hidden, 64);
  EXPECT_EQ(parsed.vocabulary, 259);
  EXPECT_EQ(IntermediateOf(parsed), 96);
  EXPECT_EQ(parsed.trained_length, 2048u);
  EXPECT_EQ(parsed.start_token, 1u);
  EXPECT_FALSE(parsed.tied);
  const GatedDeltaNetShape shape = GatedDeltaNetOf(parsed);
  EXPECT_EQ(shape.qkv.heads, 2);
  EXPECT_EQ(shape.qkv.key_heads, 2);
  EXPECT_EQ(shape.qkv.key_dim, 16);
  EXPECT_EQ(shape.qkv.value_dim, 32);
  EXPECT_EQ(shape.qkv.conv_width, 4);
  EXPECT_EQ(shape.gate, GateKind::kSilu);
}

TEST(ParseConfigTest, ReadsTheOptionsOfGatedDeltaNet) {
  json config = GatedDeltaNetConfig();
  config["num_v_heads"] = 6;
  config["use_short_conv"] = false;
  config["allow_neg_eigval"] = true;
  config["output_gate_activation"] = "sigmoid";
  config["bos_token_id"] = nullptr;

  const DecoderSpec parsed = Accepted(config);

  const GatedDeltaNetShape shape = GatedDeltaNetOf(parsed);
  EXPECT_EQ(shape.qkv.heads, 6);
  EXPECT_EQ(shape.qkv.key_heads, 2);
  EXPECT_EQ(shape.qkv.conv_width, 0);
  EXPECT_TRUE(shape.negative_eigenvalues);
  EXPECT_EQ(shape.gate, GateKind::kSigmoid);
  EXPECT_FALSE(parsed.start_token.has_value());
  config["use_gate"] = false;
  EXPECT_EQ(GatedDeltaNetOf(*Parse(config)).gate, GateKind::kNone);
}

TEST(ParseConfigTest, AnOpenIntermediateSizeFollowsTheRule) {
  const DecoderSpec parsed = Accepted(ConfigOf("models/demo"));

  EXPECT_EQ(IntermediateOf(parsed), 768);  // 682 up to a multiple of 256
  json config = GatedDeltaNetConfig();
  config["intermediate_size"] = nullptr;
  config["hidden_size"] = 384;
  config["hidden_ratio"] = 3;
  EXPECT_EQ(IntermediateOf(*Parse(config)), 768);  // exactly 768
}

TEST(ParseConfigTest, ReadsMamba2) {
  const DecoderSpec parsed = Accepted(ConfigOf("tests/golden/mamba2_limit"));

  EXPECT_EQ(parsed.family, "mamba2");
  EXPECT_EQ(LayerOf(parsed).size(), 1u);
  EXPECT_TRUE(parsed.tied);
  const Mamba2Shape shape = Mamba2Of(parsed);
  EXPECT_EQ(shape.heads, 4);
  EXPECT_EQ(shape.head_dim, 32);
  EXPECT_EQ(shape.groups, 1);
  EXPECT_EQ(shape.state_dim, 16);
  EXPECT_TRUE(shape.bias);
  EXPECT_TRUE(shape.conv_bias);
  EXPECT_FLOAT_EQ(shape.dt_min, 0.01f);
  EXPECT_FLOAT_EQ(shape.dt_max, 0.2f);
}

TEST(ParseConfigTest, ReadsMamba) {
  const DecoderSpec parsed = Accepted(ConfigOf("tests/golden/mamba_bias"));

  EXPECT_EQ(parsed.family, "mamba");
  EXPECT_FALSE(parsed.tied);
  const MambaShape shape = MambaOf(parsed);
  EXPECT_EQ(shape.inner, 128);
  EXPECT_EQ(shape.state_dim, 8);
  EXPECT_EQ(shape.dt_rank, 6);
  EXPECT_EQ(shape.conv_width, 4);
  EXPECT_FALSE(shape.conv_bias);
  EXPECT_TRUE(shape.bias);
  EXPECT_EQ(shape.mixer_eps, 0);
  const DecoderSpec falcon = Accepted(ConfigOf("tests/golden/falcon_mamba"));
  EXPECT_EQ(falcon.family, "falcon_mamba");
  EXPECT_FLOAT_EQ(MambaOf(falcon).mixer_eps, 1e-6f);
}

TEST(ParseConfigTest, WhatAMambaLeavesOpenFollowsTransformers) {
  json config = ConfigOf("tests/golden/mamba");
  for (const char* key :
       {"expand", "intermediate_size", "state_size", "tie_word_embeddings"}) {
    config.erase(key);
  }
  config["hidden_size"] = 72;
  config["time_step_rank"] = "auto";

  const DecoderSpec parsed = Accepted(config);

  EXPECT_TRUE(parsed.tied);
  EXPECT_EQ(MambaOf(parsed).inner, 144);
  EXPECT_EQ(MambaOf(parsed).state_dim, 16);
  EXPECT_EQ(MambaOf(parsed).dt_rank, 5);
}

TEST(ParseConfigTest, AWidthThatIsSaidWinsOverAFactor) {
  json config = ConfigOf("tests/golden/falcon_mamba");
  config["expand"] = 16;

  EXPECT_EQ(MambaOf(*Parse(config)).inner, 128);
}

TEST(ParseConfigTest, ReadsXlstm) {
  json config = ConfigOf("tests/golden/xlstm");
  const DecoderSpec parsed = Accepted(config);

  EXPECT_EQ(parsed.logit_cap, 30);
  EXPECT_EQ(IntermediateOf(parsed), 128);  // 96 up to a multiple of 64
  const MlstmShape shape = As<Mlstm>(LayerOf(parsed)[0]).shape();
  EXPECT_EQ(shape.heads, 4);
  EXPECT_EQ(shape.key_dim, 16);
  EXPECT_EQ(shape.value_dim, 32);
  EXPECT_EQ(shape.gate_cap, 15);
  EXPECT_FALSE(shape.fused);
  ExpectRefused(config,
                {{"embedding_dim", "65"},
                 {"num_blocks", "3"},
                 {"num_heads", "0"},
                 {"qk_dim_factor", "0.01"},
                 {"qk_dim_factor", "0.98"},
                 {"v_dim_factor", "0"},
                 {"v_dim_factor", "65"},
                 {"gate_soft_cap", "0"},
                 {"output_logit_soft_cap", "-30"},
                 {"eps", "0"},
                 {"norm_eps", "NaN"},
                 {"ffn_proj_factor", "0"},
                 {"ffn_round_up_to_multiple_of", "0"},
                 {"weight_mode", "\"sparse\""},
                 {"use_bias", "true"},
                 {"add_out_norm", "false"},
                 {"slstm_at", "[1]"}});
  config.erase("hidden_size");
  config.erase("num_hidden_layers");
  EXPECT_TRUE(Parse(config).ok()) << Parse(config).status();
  config.erase("num_blocks");
  EXPECT_FALSE(Parse(config).ok());
}

TEST(ParseConfigTest, ReadsInfinityInEachOfItsSpellings) {
  json config = Mamba2Config();
  const std::string mark = "\"@VALUE@\"";
  config["time_step_limit"] = "@VALUE@";
  for (const char* limit : {"[0.0, Infinity]",
                            "[0, \"inf\"]",
                            "[0, \"Infinity\"]",
                            R"([0.0, {"__float__": "Infinity"}])",
                            "null"}) {
    std::string text = config.dump();
    text.replace(text.find(mark), mark.size(), limit);
    const auto parsed = ParseConfig(text, "config.json");
    ASSERT_TRUE(parsed.ok()) << limit << ": " << parsed.status();
    const Mamba2Shape shape = Mamba2Of(*parsed);
    EXPECT_TRUE(std::isinf(shape.dt_max)) << limit;
    EXPECT_EQ(shape.dt_min, 0) << limit;
  }
}

}  // namespace
}  // namespace weir::engine
