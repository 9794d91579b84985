// SPDX-License-Identifier: Apache-2.0
//
// Configurations for tests: read from the source tree, changed, parsed.
//
// Threads: none.
#pragma once

#include <initializer_list>
#include <span>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "engine/mixers/decoder_spec.h"
#include "nlohmann/json.hpp"

namespace weir::engine {

// config.json of a folder of the source tree.
nlohmann::json ConfigOf(const std::string& relative);

absl::StatusOr<DecoderSpec> Parse(const nlohmann::json& config);

// Of a configuration that is good: the test ends if it is refused.
DecoderSpec Accepted(const nlohmann::json& config);

// The parts of the first layer.
std::vector<Sublayer> LayerOf(const DecoderSpec& spec);

// REQUIRES: the part is one.
template <typename Part>
const Part& As(const Sublayer& sublayer) {
  return dynamic_cast<const Part&>(*sublayer.part);
}

// What a good configuration's first part is.
template <typename Part>
auto ShapeOf(const nlohmann::json& config) {
  return As<Part>(LayerOf(Accepted(config))[0]).shape();
}

struct BadValue {
  const char* key;
  const char* value;  // JSON, or nearly
};

// What families have in common. Of decoders in flash-linear-attention's layout:
inline constexpr BadValue kBadFlaDecoder[] = {
    {"num_hidden_layers", "0"},
    {"hidden_size", "0"},
    {"vocab_size", "0"},
    {"intermediate_size", "0"},
    {"hidden_act", "\"gelu\""},
    {"norm_eps", "0"},
    {"elementwise_affine", "false"},
    {"tie_word_embeddings", "0"},
    {"max_position_embeddings", "-1"},
    {"attn", R"({"layers":[1]})"},
    {"attnres_block_size", "2"},
};
inline constexpr BadValue kBadShortConvolution[] = {
    {"use_short_conv", "1"},
    {"use_short_conv", "\"yes\""},
    {"conv_size", "1"},
    {"conv_size", "9"},
    {"conv_bias", "\"no\""},
};
// Heads that share keys and values.
inline constexpr BadValue kBadSharedHeads[] = {
    {"num_heads", "0"},
    {"num_kv_heads", "0"},
    {"num_kv_heads", "3"},
};
// Heads of which several have one key.
inline constexpr BadValue kBadValueHeads[] = {
    {"num_heads", "0"},
    {"num_v_heads", "0"},
    {"num_v_heads", "1"},
    {"num_v_heads", "3"},
    {"head_dim", "0"},
    {"head_dim", "1025"},
    {"expand_v", "0"},
    {"expand_v", "0.03"},
    {"allow_neg_eigval", "1"},
    {"allow_neg_eigval", "\"no\""},
};
// Projections of our own layouts.
inline constexpr BadValue kBadPlainQkv[] = {
    {"num_heads", "0"},
    {"num_heads", "5"},
    {"num_heads", "null"},
    {"head_dim", "0"},
    {"head_dim", "1025"},
    {"value_dim", "-1"},
    {"value_dim", "0"},
    {"value_dim", "1025"},
    {"qkv_bias", "1"},
    {"out_bias", "\"no\""},
};

// Each value in the place of the good one is refused, and by its key.
void ExpectRefused(const nlohmann::json& good,
                   const std::vector<BadValue>& cases,
                   std::initializer_list<std::span<const BadValue>> more = {});

}  // namespace weir::engine
