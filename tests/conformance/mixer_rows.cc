// SPDX-License-Identifier: Apache-2.0
//
// The mixers of the suite: each family of the registry, and the options that
// change what a mixer computes. Layers where they differ: two.
#include <cmath>
#include <span>
#include <string>
#include <vector>

#include "base/check.h"
#include "nlohmann/json.hpp"
#include "tests/conformance/mixer_case.h"

namespace weir::engine {
namespace {

// RWKV-4's sums are shared between two floats each, in any way, by an exponent
// that any number may be added to. What they say is an average and, as a
// logarithm, what it weighs.
void ReadWkv(std::vector<NamedValues>& tensors) {
  for (size_t i = 0; i + 1 < tensors.size(); ++i) {
    if (!tensors[i].name.ends_with(".sums")) continue;
    const std::vector<float> sums = tensors[i].values;
    std::vector<float>& exponents = tensors[i + 1].values;
    const size_t channels = exponents.size();
    const auto sum = [&](size_t part, size_t c) {
      return double{sums[part * channels + c]} +
             sums[(part + 1) * channels + c];
    };
    tensors[i].values.resize(channels);
    for (size_t c = 0; c < channels; ++c) {
      tensors[i].values[c] = static_cast<float>(sum(0, c) / sum(2, c));
      exponents[c] = static_cast<float>(
          double{exponents[c]} + sums[4 * channels + c] + std::log(sum(2, c)));
    }
  }
}

// mLSTM's C and n are held by an exponent m that any number may be added
// to.
void ReadMlstm(std::vector<NamedValues>& tensors) {
  for (size_t i = 0; i + 1 < tensors.size(); i += 2) {
    std::vector<float>& state = tensors[i].values;
    std::vector<float>& maximum = tensors[i + 1].values;
    const size_t each = state.size() / maximum.size();
    WEIR_CHECK(tensors[i + 1].name.ends_with(".maximum"));
    for (size_t j = 0; j < state.size(); ++j) {
      state[j] =
          static_cast<float>(state[j] * std::exp(double{maximum[j / each]}));
    }
    maximum.clear();
  }
}

// A row as it stands here. What rows have in common is added to its config,
// whose own keys win.
struct Keys {
  const char* name;
  const char* config;
  StateReading reading = nullptr;
};

// Mixers with an MLP beside them.
constexpr const char* kMlpRest =
    R"({"num_hidden_layers": 1, "vocab_size": 8, "intermediate_size": 16})";
constexpr Keys kMlpRows[] = {
    {"DeltaNet",
     R"({"model_type": "delta_net", "hidden_size": 32, "num_heads": 2})"},
    {"DeltaNetNegativeGated",
     R"({"model_type": "delta_net", "hidden_size": 24, "num_heads": 2,
         "expand_v": 1.5, "allow_neg_eigval": true, "use_gate": true})"},
    {"DeltaNetSumsOfElu",
     R"({"model_type": "delta_net", "hidden_size": 24, "num_heads": 2,
         "qk_norm": "sum", "qk_activation": "elu"})"},
    {"DeltaNetRelusNoConvolution",
     R"({"model_type": "delta_net", "hidden_size": 32, "num_heads": 2,
         "use_short_conv": false, "qk_activation": "relu"})"},
    {"DeltaNetNoConvolutionNoBeta",
     R"({"model_type": "delta_net", "hidden_size": 32, "num_heads": 1,
         "use_short_conv": false, "use_beta": false})"},
    {"GatedDeltaNet",
     R"({"model_type": "gated_deltanet", "hidden_size": 32, "num_heads": 2,
         "head_dim": 16})"},
    {"GatedDeltaNetNegativeGrouped",
     R"({"model_type": "gated_deltanet", "hidden_size": 32, "num_heads": 2,
         "num_v_heads": 6, "head_dim": 12, "expand_v": 0.75,
         "allow_neg_eigval": true, "output_gate_activation": "sigmoid",
         "conv_bias": true, "conv_size": 3})"},
    {"GatedDeltaNetNoConvolutionNoGate",
     R"({"model_type": "gated_deltanet", "hidden_size": 32, "num_heads": 2,
         "head_dim": 16, "use_gate": false, "use_short_conv": false})"},
    {"Kda",
     R"({"model_type": "kda", "hidden_size": 32, "num_heads": 2,
         "head_dim": 16})"},
    {"KdaBoundedGrouped",
     R"({"model_type": "kda", "hidden_size": 32, "num_heads": 2,
         "num_v_heads": 4, "head_dim": 20, "expand_v": 0.6, "safe_gate": true,
         "lower_bound": -5, "allow_neg_eigval": true})"},
    {"KdaNoConvolution",
     R"({"model_type": "kda", "hidden_size": 32, "num_heads": 2, "head_dim": 16,
         "use_short_conv": false})"},
    {"Gla", R"({"model_type": "gla", "hidden_size": 32, "num_heads": 2})"},
    {"GlaConvolutionClamped",
     R"({"model_type": "gla", "hidden_size": 32, "num_heads": 2,
         "use_short_conv": true, "expand_k": 0.75, "clamp_min": -0.02,
         "gate_logit_normalizer": 4, "fuse_norm": false})"},
    {"GlaFastNoGate",
     R"({"model_type": "gla", "hidden_size": 32, "num_heads": 1,
         "use_output_gate": false, "gate_logit_normalizer": 0.25})"},
    {"GlaSharedKeysConvolution",
     R"({"model_type": "gla", "hidden_size": 32, "num_heads": 4,
         "num_kv_heads": 2, "use_short_conv": true})"},
    {"Hgrn2",
     R"({"model_type": "hgrn2", "hidden_size": 32, "expand_ratio": 16,
         "num_hidden_layers": 2})"},
    {"Hgrn2NoBound",
     R"({"model_type": "hgrn2", "hidden_size": 36, "expand_ratio": 12,
         "use_lower_bound": false})"},
    {"LinearAttentionElu",
     R"({"model_type": "linear_attn", "hidden_size": 32, "num_heads": 2,
         "feature_map": "elu", "expand_v": 0.75})"},
    {"LinearAttentionEluNormalized",
     R"({"model_type": "linear_attn", "hidden_size": 32, "num_heads": 2,
         "feature_map": "elu", "norm_feature_map": true})"},
    {"LinearAttentionReluNormalized",
     R"({"model_type": "linear_attn", "hidden_size": 32, "num_heads": 2,
         "feature_map": "relu", "norm_feature_map": true})"},
    {"LinearAttentionIdentity",
     R"({"model_type": "linear_attn", "hidden_size": 36, "num_heads": 3,
         "feature_map": "identity"})"},
    {"RetNet",
     R"({"model_type": "retnet", "hidden_size": 32, "num_heads": 2})"},
    {"RetNetConvolutionNoGate",
     R"({"model_type": "retnet", "hidden_size": 36, "num_heads": 3,
         "expand_k": 0.5, "expand_v": 1, "use_short_conv": true,
         "use_output_gate": false})"},
    {"RetNetSharedKeys",
     R"({"model_type": "retnet", "hidden_size": 32, "num_heads": 4,
         "num_kv_heads": 2})"},
    {"Rwkv4",
     R"({"model_type": "rwkv", "hidden_size": 32,
         "attention_hidden_size": 40})",
     ReadWkv},
    {"Rwkv6",
     R"({"model_type": "rwkv6", "hidden_size": 32, "num_heads": 2,
         "proj_low_rank_dim": 4, "gate_low_rank_dim": 6})"},
    {"Rwkv7",
     R"({"model_type": "rwkv7", "hidden_size": 32, "head_dim": 16,
         "a_low_rank_dim": 4, "decay_low_rank_dim": 5, "gate_low_rank_dim": 6,
         "v_low_rank_dim": 3, "num_hidden_layers": 2})"},
    {"Rwkv7NarrowValues",
     R"({"model_type": "rwkv7", "hidden_size": 36, "head_dim": 12,
         "a_low_rank_dim": 4, "decay_low_rank_dim": 5, "gate_low_rank_dim": 6,
         "v_low_rank_dim": 3, "value_dim": [18, 18], "fuse_norm": false,
         "num_hidden_layers": 2})"},
    {"GatedDeltaProduct",
     R"({"model_type": "gated_deltaproduct", "hidden_size": 32, "num_heads": 2,
         "head_dim": 16, "expand_v": 1.5, "num_householder": 2,
         "use_forget_gate": true, "allow_neg_eigval": true})"},
    {"GatedDeltaProductPlain",
     R"({"model_type": "gated_deltaproduct", "hidden_size": 32, "num_heads": 2,
         "head_dim": 12, "expand_v": 1.0, "num_householder": 3,
         "use_output_gate": false})"},
    {"Gsa",
     R"({"model_type": "gsa", "hidden_size": 32, "num_heads": 2,
         "num_slots": 12})"},
    {"GsaLearnedFeature",
     R"({"model_type": "gsa", "hidden_size": 24, "num_heads": 2,
         "num_slots": 16, "feature_map": "t2r", "use_short_conv": true})"},
    {"LinearAttentionProducts",
     R"({"model_type": "linear_attn", "hidden_size": 32, "num_heads": 2,
         "feature_map": "elementwise_product"})"},
    {"LinearAttentionHedgehog",
     R"({"model_type": "linear_attn", "hidden_size": 32, "num_heads": 2,
         "feature_map": "hedgehog", "norm_feature_map": true})"},
    {"SimpleGla",
     R"({"model_type": "weir_simple_gla", "hidden_size": 32, "num_heads": 2})"},
    {"SimpleGlaNoConvolution",
     R"({"model_type": "weir_simple_gla", "hidden_size": 36, "num_heads": 3,
         "use_short_conv": false, "gate_fn": "sigmoid"})"},
    {"LightningMiniMax",
     R"({"model_type": "weir_lightning", "hidden_size": 32, "num_heads": 2})"},
    {"LightningFla",
     R"({"model_type": "weir_lightning", "hidden_size": 32, "num_heads": 4,
         "head_dim": 12, "slopes": "fla"})"},
    {"Gdn2",
     R"({"model_type": "weir_gdn2", "hidden_size": 32, "num_heads": 2,
         "head_dim": 16, "num_v_heads": 4})"},
    {"Gdn2Negative",
     R"({"model_type": "weir_gdn2", "hidden_size": 24, "num_heads": 2,
         "head_dim": 12, "expand_v": 1.5, "allow_neg_eigval": true})"},
    {"LinearTransformer",
     R"({"model_type": "weir_linear_transformer", "hidden_size": 32,
         "num_heads": 2, "qkv_bias": true, "out_bias": true})"},
    {"LinearTransformerNotNormalized",
     R"({"model_type": "weir_linear_transformer", "hidden_size": 32,
         "num_heads": 2, "normalize": false})"},
    {"PerformerFavor",
     R"({"model_type": "weir_performer", "hidden_size": 32, "num_heads": 2,
         "num_features": 24})"},
    {"PerformerRelu",
     R"({"model_type": "weir_performer", "hidden_size": 32, "num_heads": 2,
         "num_features": 20, "kernel": "relu", "shared_features": false})"},
    {"Linformer",
     R"({"model_type": "weir_linformer", "hidden_size": 32, "num_heads": 2,
         "num_slots": 12, "n_max": 100, "past_n_max": "new_segment"})"},
    {"LinformerProjectedAfter",
     R"({"model_type": "weir_linformer", "hidden_size": 32, "num_heads": 2,
         "num_slots": 8, "n_max": 4096, "projection": "after", "qkv_bias": true,
         "past_n_max": "new_segment"})"},
};

// Mixers without.
constexpr const char* kPlainRest =
    R"({"num_hidden_layers": 1, "vocab_size": 8})";
constexpr Keys kPlainRows[] = {
    {"FlaMamba",
     R"({"model_type": "mamba", "hidden_size": 32, "state_size": 8,
         "norm_eps": 1e-5, "dt_rank": 3})"},
    {"Mamba",
     R"({"model_type": "mamba", "hidden_size": 40, "state_size": 16,
         "layer_norm_epsilon": 1e-5, "time_step_rank": 4, "use_bias": true,
         "use_conv_bias": false})"},
    {"FalconMamba",
     R"({"model_type": "falcon_mamba", "hidden_size": 32, "state_size": 12,
         "layer_norm_epsilon": 1e-5, "time_step_rank": 4})"},
    {"Mamba2",
     R"({"model_type": "mamba2", "hidden_size": 32, "expand": 2, "head_dim": 16,
         "n_groups": 2, "state_size": 16, "layer_norm_epsilon": 1e-5})"},
    {"Mamba2LimitedBias",
     R"({"model_type": "mamba2", "hidden_size": 36, "expand": 2, "head_dim": 24,
         "n_groups": 1, "state_size": 20, "layer_norm_epsilon": 1e-5,
         "time_step_limit": [0.02, 0.3], "use_bias": true})"},
    {"FlaMamba2NormBeforeGate",
     R"({"model_type": "mamba2", "hidden_size": 32, "expand": 2, "head_dim": 16,
         "n_groups": 2, "state_size": 16, "norm_eps": 1e-5,
         "norm_before_gate": true})"},
    {"Xlstm",
     R"({"model_type": "xlstm", "hidden_size": 32, "num_heads": 2})",
     ReadMlstm},
    {"XlstmFused",
     R"({"model_type": "xlstm", "hidden_size": 36, "num_heads": 3,
         "qk_dim_factor": 1.0, "weight_mode": "fused"})",
     ReadMlstm},
};

// With names of their own for all of it.
constexpr Keys kWholeRows[] = {
    {"OfficialMamba2",
     R"({"d_model": 32, "n_layer": 1, "vocab_size": 8,
         "ssm_cfg": {"layer": "Mamba2", "headdim": 16, "d_state": 16}})"},
};

}  // namespace

std::span<const MixerRow> MixerRows() {
  static const std::vector<MixerRow> rows = [] {
    std::vector<MixerRow> all;
    const auto add = [&all](std::span<const Keys> keys, const char* rest) {
      for (const Keys& row : keys) {
        nlohmann::json config = nlohmann::json::parse(rest);
        config.update(nlohmann::json::parse(row.config));
        all.push_back({.name = row.name,
                       .config = config.dump(),
                       .reading = row.reading});
      }
    };
    add(kMlpRows, kMlpRest);
    add(kPlainRows, kPlainRest);
    add(kWholeRows, "{}");
    return all;
  }();
  return rows;
}

}  // namespace weir::engine
