// SPDX-License-Identifier: Apache-2.0
//
// The mixers of the suite: each family of the registry, and the options that
// change what a mixer computes. Layers where they differ: two.
#include <cmath>

#include "base/check.h"
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

constexpr MixerRow kRows[] = {
    {"DeltaNet",
     R"({"model_type": "delta_net", "hidden_size": 32, "num_heads": 2,
         "num_hidden_layers": 1, "vocab_size": 8, "intermediate_size": 16})"},
    {"DeltaNetNegativeGated",
     R"({"model_type": "delta_net", "hidden_size": 24, "num_heads": 2,
         "expand_v": 1.5, "allow_neg_eigval": true, "use_gate": true,
         "num_hidden_layers": 1, "vocab_size": 8, "intermediate_size": 16})"},
    {"DeltaNetNoConvolutionNoBeta",
     R"({"model_type": "delta_net", "hidden_size": 32, "num_heads": 1,
         "use_short_conv": false, "use_beta": false,
         "num_hidden_layers": 1, "vocab_size": 8, "intermediate_size": 16})"},
    {"GatedDeltaNet",
     R"({"model_type": "gated_deltanet", "hidden_size": 32, "num_heads": 2,
         "head_dim": 16,
         "num_hidden_layers": 1, "vocab_size": 8, "intermediate_size": 16})"},
    {"GatedDeltaNetNegativeGrouped",
     R"({"model_type": "gated_deltanet", "hidden_size": 32, "num_heads": 2,
         "num_v_heads": 6, "head_dim": 12, "expand_v": 0.75,
         "allow_neg_eigval": true, "output_gate_activation": "sigmoid",
         "conv_bias": true, "conv_size": 3,
         "num_hidden_layers": 1, "vocab_size": 8, "intermediate_size": 16})"},
    {"GatedDeltaNetNoConvolutionNoGate",
     R"({"model_type": "gated_deltanet", "hidden_size": 32, "num_heads": 2,
         "head_dim": 16, "use_gate": false, "use_short_conv": false,
         "num_hidden_layers": 1, "vocab_size": 8, "intermediate_size": 16})"},
    {"Kda",
     R"({"model_type": "kda", "hidden_size": 32, "num_heads": 2, "head_dim": 16,
         "num_hidden_layers": 1, "vocab_size": 8, "intermediate_size": 16})"},
    {"KdaBoundedGrouped",
     R"({"model_type": "kda", "hidden_size": 32, "num_heads": 2,
         "num_v_heads": 4, "head_dim": 20, "expand_v": 0.6, "safe_gate": true,
         "lower_bound": -5, "allow_neg_eigval": true,
         "num_hidden_layers": 1, "vocab_size": 8, "intermediate_size": 16})"},
    {"KdaNoConvolution",
     R"({"model_type": "kda", "hidden_size": 32, "num_heads": 2, "head_dim": 16,
         "use_short_conv": false,
         "num_hidden_layers": 1, "vocab_size": 8, "intermediate_size": 16})"},
    {"Gla",
     R"({"model_type": "gla", "hidden_size": 32, "num_heads": 2,
         "num_hidden_layers": 1, "vocab_size": 8, "intermediate_size": 16})"},
    {"GlaConvolutionClamped",
     R"({"model_type": "gla", "hidden_size": 32, "num_heads": 2,
         "use_short_conv": true, "expand_k": 0.75, "clamp_min": -0.02,
         "gate_logit_normalizer": 4, "fuse_norm": false,
         "num_hidden_layers": 1, "vocab_size": 8, "intermediate_size": 16})"},
    {"GlaFastNoGate",
     R"({"model_type": "gla", "hidden_size": 32, "num_heads": 1,
         "use_output_gate": false, "gate_logit_normalizer": 0.25,
         "num_hidden_layers": 1, "vocab_size": 8, "intermediate_size": 16})"},
    {"Hgrn2",
     R"({"model_type": "hgrn2", "hidden_size": 32, "expand_ratio": 16,
         "num_hidden_layers": 2, "vocab_size": 8, "intermediate_size": 16})"},
    {"Hgrn2NoBound",
     R"({"model_type": "hgrn2", "hidden_size": 36, "expand_ratio": 12,
         "use_lower_bound": false,
         "num_hidden_layers": 1, "vocab_size": 8, "intermediate_size": 16})"},
    {"LinearAttentionElu",
     R"({"model_type": "linear_attn", "hidden_size": 32, "num_heads": 2,
         "feature_map": "elu", "expand_v": 0.75,
         "num_hidden_layers": 1, "vocab_size": 8, "intermediate_size": 16})"},
    {"LinearAttentionEluNormalized",
     R"({"model_type": "linear_attn", "hidden_size": 32, "num_heads": 2,
         "feature_map": "elu", "norm_feature_map": true,
         "num_hidden_layers": 1, "vocab_size": 8, "intermediate_size": 16})"},
    {"LinearAttentionReluNormalized",
     R"({"model_type": "linear_attn", "hidden_size": 32, "num_heads": 2,
         "feature_map": "relu", "norm_feature_map": true,
         "num_hidden_layers": 1, "vocab_size": 8, "intermediate_size": 16})"},
    {"LinearAttentionIdentity",
     R"({"model_type": "linear_attn", "hidden_size": 36, "num_heads": 3,
         "feature_map": "identity",
         "num_hidden_layers": 1, "vocab_size": 8, "intermediate_size": 16})"},
    {"RetNet",
     R"({"model_type": "retnet", "hidden_size": 32, "num_heads": 2,
         "num_hidden_layers": 1, "vocab_size": 8, "intermediate_size": 16})"},
    {"RetNetConvolutionNoGate",
     R"({"model_type": "retnet", "hidden_size": 36, "num_heads": 3,
         "expand_k": 0.5, "expand_v": 1, "use_short_conv": true,
         "use_output_gate": false,
         "num_hidden_layers": 1, "vocab_size": 8, "intermediate_size": 16})"},
    {"Rwkv4",
     R"({"model_type": "rwkv", "hidden_size": 32, "attention_hidden_size": 40,
         "num_hidden_layers": 1, "vocab_size": 8, "intermediate_size": 16})",
     ReadWkv},
    {"Rwkv6",
     R"({"model_type": "rwkv6", "hidden_size": 32, "num_heads": 2,
         "proj_low_rank_dim": 4, "gate_low_rank_dim": 6,
         "num_hidden_layers": 1, "vocab_size": 8, "intermediate_size": 16})"},
    {"Rwkv7",
     R"({"model_type": "rwkv7", "hidden_size": 32, "head_dim": 16,
         "a_low_rank_dim": 4, "decay_low_rank_dim": 5, "gate_low_rank_dim": 6,
         "v_low_rank_dim": 3,
         "num_hidden_layers": 2, "vocab_size": 8, "intermediate_size": 16})"},
    {"Rwkv7NarrowValues",
     R"({"model_type": "rwkv7", "hidden_size": 36, "head_dim": 12,
         "a_low_rank_dim": 4, "decay_low_rank_dim": 5, "gate_low_rank_dim": 6,
         "v_low_rank_dim": 3, "value_dim": [18, 18], "fuse_norm": false,
         "num_hidden_layers": 2, "vocab_size": 8, "intermediate_size": 16})"},
    {"FlaMamba",
     R"({"model_type": "mamba", "hidden_size": 32, "state_size": 8,
         "norm_eps": 1e-5, "dt_rank": 3,
         "num_hidden_layers": 1, "vocab_size": 8})"},
    {"Mamba",
     R"({"model_type": "mamba", "hidden_size": 40, "state_size": 16,
         "layer_norm_epsilon": 1e-5, "time_step_rank": 4, "use_bias": true,
         "use_conv_bias": false,
         "num_hidden_layers": 1, "vocab_size": 8})"},
    {"FalconMamba",
     R"({"model_type": "falcon_mamba", "hidden_size": 32, "state_size": 12,
         "layer_norm_epsilon": 1e-5, "time_step_rank": 4,
         "num_hidden_layers": 1, "vocab_size": 8})"},
    {"Mamba2",
     R"({"model_type": "mamba2", "hidden_size": 32, "expand": 2, "head_dim": 16,
         "n_groups": 2, "state_size": 16, "layer_norm_epsilon": 1e-5,
         "num_hidden_layers": 1, "vocab_size": 8})"},
    {"Mamba2LimitedBias",
     R"({"model_type": "mamba2", "hidden_size": 36, "expand": 2, "head_dim": 24,
         "n_groups": 1, "state_size": 20, "layer_norm_epsilon": 1e-5,
         "time_step_limit": [0.02, 0.3], "use_bias": true,
         "num_hidden_layers": 1, "vocab_size": 8})"},
    {"FlaMamba2NormBeforeGate",
     R"({"model_type": "mamba2", "hidden_size": 32, "expand": 2, "head_dim": 16,
         "n_groups": 2, "state_size": 16, "norm_eps": 1e-5,
         "norm_before_gate": true,
         "num_hidden_layers": 1, "vocab_size": 8})"},
    {"OfficialMamba2",
     R"({"d_model": 32, "n_layer": 1, "vocab_size": 8,
         "ssm_cfg": {"layer": "Mamba2", "headdim": 16, "d_state": 16}})"},
    {"GatedDeltaProduct",
     R"({"model_type": "gated_deltaproduct", "hidden_size": 32, "num_heads": 2,
         "head_dim": 16, "expand_v": 1.5, "num_householder": 2,
         "use_forget_gate": true, "allow_neg_eigval": true,
         "num_hidden_layers": 1, "vocab_size": 8, "intermediate_size": 16})"},
    {"GatedDeltaProductPlain",
     R"({"model_type": "gated_deltaproduct", "hidden_size": 32, "num_heads": 2,
         "head_dim": 12, "expand_v": 1.0, "num_householder": 3,
         "use_output_gate": false,
         "num_hidden_layers": 1, "vocab_size": 8, "intermediate_size": 16})"},
    {"Gsa",
     R"({"model_type": "gsa", "hidden_size": 32, "num_heads": 2,
         "num_slots": 12,
         "num_hidden_layers": 1, "vocab_size": 8, "intermediate_size": 16})"},
    {"GsaLearnedFeature",
     R"({"model_type": "gsa", "hidden_size": 24, "num_heads": 2,
         "num_slots": 16, "feature_map": "t2r", "use_short_conv": true,
         "num_hidden_layers": 1, "vocab_size": 8, "intermediate_size": 16})"},
    {"LinearAttentionProducts",
     R"({"model_type": "linear_attn", "hidden_size": 32, "num_heads": 2,
         "feature_map": "elementwise_product",
         "num_hidden_layers": 1, "vocab_size": 8, "intermediate_size": 16})"},
    {"LinearAttentionHedgehog",
     R"({"model_type": "linear_attn", "hidden_size": 32, "num_heads": 2,
         "feature_map": "hedgehog", "norm_feature_map": true,
         "num_hidden_layers": 1, "vocab_size": 8, "intermediate_size": 16})"},
    {"SimpleGla",
     R"({"model_type": "weir_simple_gla", "hidden_size": 32, "num_heads": 2,
         "num_hidden_layers": 1, "vocab_size": 8, "intermediate_size": 16})"},
    {"SimpleGlaNoConvolution",
     R"({"model_type": "weir_simple_gla", "hidden_size": 36, "num_heads": 3,
         "use_short_conv": false, "gate_fn": "sigmoid",
         "num_hidden_layers": 1, "vocab_size": 8, "intermediate_size": 16})"},
    {"LightningMiniMax",
     R"({"model_type": "weir_lightning", "hidden_size": 32, "num_heads": 2,
         "num_hidden_layers": 1, "vocab_size": 8, "intermediate_size": 16})"},
    {"LightningFla",
     R"({"model_type": "weir_lightning", "hidden_size": 32, "num_heads": 4,
         "head_dim": 12, "slopes": "fla",
         "num_hidden_layers": 1, "vocab_size": 8, "intermediate_size": 16})"},
    {"Gdn2",
     R"({"model_type": "weir_gdn2", "hidden_size": 32, "num_heads": 2,
         "head_dim": 16, "num_v_heads": 4,
         "num_hidden_layers": 1, "vocab_size": 8, "intermediate_size": 16})"},
    {"Gdn2Negative",
     R"({"model_type": "weir_gdn2", "hidden_size": 24, "num_heads": 2,
         "head_dim": 12, "expand_v": 1.5, "allow_neg_eigval": true,
         "num_hidden_layers": 1, "vocab_size": 8, "intermediate_size": 16})"},
    {"LinearTransformer",
     R"({"model_type": "weir_linear_transformer", "hidden_size": 32,
         "num_heads": 2, "qkv_bias": true, "out_bias": true,
         "num_hidden_layers": 1, "vocab_size": 8, "intermediate_size": 16})"},
    {"LinearTransformerNotNormalized",
     R"({"model_type": "weir_linear_transformer", "hidden_size": 32,
         "num_heads": 2, "normalize": false,
         "num_hidden_layers": 1, "vocab_size": 8, "intermediate_size": 16})"},
    {"PerformerFavor",
     R"({"model_type": "weir_performer", "hidden_size": 32, "num_heads": 2,
         "num_features": 24,
         "num_hidden_layers": 1, "vocab_size": 8, "intermediate_size": 16})"},
    {"PerformerRelu",
     R"({"model_type": "weir_performer", "hidden_size": 32, "num_heads": 2,
         "num_features": 20, "kernel": "relu", "shared_features": false,
         "num_hidden_layers": 1, "vocab_size": 8, "intermediate_size": 16})"},
    {"Linformer",
     R"({"model_type": "weir_linformer", "hidden_size": 32, "num_heads": 2,
         "num_slots": 12, "n_max": 100, "past_n_max": "new_segment",
         "num_hidden_layers": 1, "vocab_size": 8, "intermediate_size": 16})"},
    {"LinformerProjectedAfter",
     R"({"model_type": "weir_linformer", "hidden_size": 32, "num_heads": 2,
         "num_slots": 8, "n_max": 4096, "projection": "after",
         "qkv_bias": true, "past_n_max": "new_segment",
         "num_hidden_layers": 1, "vocab_size": 8, "intermediate_size": 16})"},
    {"Xlstm",
     R"({"model_type": "xlstm", "hidden_size": 32, "num_heads": 2,
         "num_hidden_layers": 1, "vocab_size": 8})",
     ReadMlstm},
    {"XlstmFused",
     R"({"model_type": "xlstm", "hidden_size": 36, "num_heads": 3,
         "qk_dim_factor": 1.0, "weight_mode": "fused",
         "num_hidden_layers": 1, "vocab_size": 8})",
     ReadMlstm},
};

}  // namespace

std::span<const MixerRow> MixerRows() { return kRows; }

}  // namespace weir::engine
