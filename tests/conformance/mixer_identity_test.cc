// SPDX-License-Identifier: Apache-2.0
//
// Whole mixers that are one another when some of their tensors are held fixed.
// Tensors of one name and shape are drawn alike in every mixer.
#include <algorithm>
#include <string>
#include <string_view>
#include <vector>

#include "gtest/gtest.h"
#include "tests/conformance/mixer_case.h"

namespace weir::engine {
namespace {

constexpr double kRmseMax = 1e-5;
constexpr uint32_t kSeed = 20261129;

// All values of the tensors whose names end so.
struct Held {
  std::string_view ending;
  float value;
};

struct Side {
  const char* config;
  std::vector<Held> held;
};

struct MixerIdentity {
  const char* name;
  Side left;
  Side right;
};

const MixerIdentity kIdentities[] = {
    {"GatedDeltaNetThatForgetsNothingIsDeltaNet",
     {R"({"model_type": "gated_deltanet", "hidden_size": 32, "num_heads": 2,
          "head_dim": 16, "expand_v": 1, "num_hidden_layers": 1,
          "vocab_size": 8, "intermediate_size": 16})",
      {{"A_log", -100}}},
     {R"({"model_type": "delta_net", "hidden_size": 32, "num_heads": 2,
          "use_gate": true, "num_hidden_layers": 1, "vocab_size": 8,
          "intermediate_size": 16})",
      {}}},
    {"KdaOfOneDecayAHeadIsGatedDeltaNet",
     {R"({"model_type": "kda", "hidden_size": 32, "num_heads": 2,
          "head_dim": 16, "allow_neg_eigval": true, "num_hidden_layers": 1,
          "vocab_size": 8, "intermediate_size": 16})",
      {{"f_proj.1.weight", 0},
       {"dt_bias", -1.5F},
       {"g_proj.1.weight", 0},
       {"g_proj.1.bias", 100}}},
     {R"({"model_type": "gated_deltanet", "hidden_size": 32, "num_heads": 2,
          "head_dim": 16, "expand_v": 1, "allow_neg_eigval": true,
          "use_gate": false, "num_hidden_layers": 1, "vocab_size": 8,
          "intermediate_size": 16})",
      {{"a_proj.weight", 0}, {"dt_bias", -1.5F}}}},
    {"GlaThatForgetsNothingIsLinearAttention",
     {R"({"model_type": "gla", "hidden_size": 32, "num_heads": 2,
          "expand_k": 1, "use_output_gate": false, "num_hidden_layers": 1,
          "vocab_size": 8, "intermediate_size": 16})",
      {{"gk_proj.1.weight", 0}, {"gk_proj.1.bias", 100}, {"g_norm.weight", 1}}},
     {R"({"model_type": "linear_attn", "hidden_size": 32, "num_heads": 2,
          "feature_map": "identity", "num_hidden_layers": 1, "vocab_size": 8,
          "intermediate_size": 16})",
      {{"attn.norm.weight", 1}}}},
    // Another layout of the same model.
    {"FlaMamba2IsMamba2",
     {R"({"model_type": "mamba2", "hidden_size": 32, "expand": 2,
          "head_dim": 16, "n_groups": 1, "state_size": 16, "norm_eps": 1e-5,
          "num_hidden_layers": 1, "vocab_size": 8})",
      {}},
     {R"({"model_type": "mamba2", "hidden_size": 32, "expand": 2,
          "head_dim": 16, "n_groups": 1, "state_size": 16,
          "layer_norm_epsilon": 1e-5, "num_hidden_layers": 1,
          "vocab_size": 8})",
      {}}},
};

std::unique_ptr<MixerCase> Make(const Side& side) {
  return MixerCase::Make(
      {.name = "side", .config = side.config},
      WeightDtype::kFloat32,
      [&side](const std::string& name, std::vector<float>& values) {
        for (const Held& held : side.held) {
          if (!name.ends_with(held.ending)) continue;
          std::fill(values.begin(), values.end(), held.value);
        }
      });
}

class MixerIdentityTest : public testing::TestWithParam<MixerIdentity> {};

TEST_P(MixerIdentityTest, HoldsInEveryForm) {
  const auto left = Make(GetParam().left);
  const auto right = Make(GetParam().right);
  ASSERT_NE(left, nullptr);
  ASSERT_NE(right, nullptr);
  ASSERT_EQ(left->hidden(), right->hidden());
  const std::vector<float> x = RandomTokens(160, left->hidden(), kSeed);
  const PassRows rows = {.tokens = {1, 14, 145}, .slots = {1, 2, 0}};
  for (const Form form : {Form::kReference, Form::kRecurrent, Form::kChunk}) {
    SCOPED_TRACE(FormName(form));
    const std::unique_ptr<StatePool> left_pool = left->NewPool(3);
    const std::unique_ptr<StatePool> right_pool = right->NewPool(3);

    ExpectNear(left->Run(*left_pool, rows, x, form),
               right->Run(*right_pool, rows, x, form),
               kRmseMax);

    for (const int32_t slot : {0, 1, 2}) {
      ExpectNear(left->State(*left_pool, slot),
                 right->State(*right_pool, slot),
                 kRmseMax);
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Mixers,
                         MixerIdentityTest,
                         testing::ValuesIn(kIdentities),
                         [](const testing::TestParamInfo<MixerIdentity>& info) {
                           return info.param.name;
                         });

}  // namespace
}  // namespace weir::engine
