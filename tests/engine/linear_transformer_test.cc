// SPDX-License-Identifier: Apache-2.0
//
// The Linear Transformer's attention against its formula in fp64.
#include "engine/mixers/linear_transformer.h"

#include <cmath>
#include <memory>
#include <string>
#include <vector>

#include "gtest/gtest.h"
#include "tests/engine/config_case.h"
#include "tests/engine/formula_case.h"

namespace weir::engine {
namespace {

using nlohmann::json;

json Config() {
  return {{"model_type", "weir_linear_transformer"},
          {"hidden_size", 24},
          {"num_hidden_layers", 2},
          {"vocab_size", 50},
          {"intermediate_size", 40},
          {"norm_eps", 1e-5},
          {"num_heads", 2}};
}

double Feature(double x) { return x > 0 ? x + 1 : std::exp(x); }

class Reference final : public ReferenceMixer {
 public:
  Reference(const json& config,
            const ReferenceWeights& weights,
            std::string prefix)
      : weights_(weights),
        prefix_(std::move(prefix)),
        heads_(config.at("num_heads").get<size_t>()),
        normalized_(config.value("normalize", true)),
        eps_(config.value("normalizer_eps", 1e-6)) {}

  Vector Step(const Vector& x) override {
    const Vector q = weights_.Project(prefix_ + "q_proj", x);
    const Vector k = weights_.Project(prefix_ + "k_proj", x);
    const Vector v = weights_.Project(prefix_ + "v_proj", x);
    const size_t keys = q.size() / heads_;
    const size_t values = v.size() / heads_;
    s_.resize(heads_ * keys * values, 0.0);
    z_.resize(heads_ * keys, 0.0);
    Vector o(v.size(), 0.0);
    for (size_t h = 0; h < heads_; ++h) {
      double divisor = eps_;
      for (size_t i = h * keys; i < (h + 1) * keys; ++i) {
        z_[i] += Feature(k[i]);
        divisor += Feature(q[i]) * z_[i];
        for (size_t j = 0; j < values; ++j) {
          s_[i * values + j] += Feature(k[i]) * v[h * values + j];
          o[h * values + j] += Feature(q[i]) * s_[i * values + j];
        }
      }
      if (!normalized_) continue;
      for (size_t j = 0; j < values; ++j) o[h * values + j] /= divisor;
    }
    return weights_.Project(prefix_ + "o_proj", o);
  }

 private:
  const ReferenceWeights& weights_;
  const std::string prefix_;
  const size_t heads_;
  const bool normalized_;
  const double eps_;
  Vector s_;
  Vector z_;
};

MakeReference ReferenceOf(const json& config) {
  return [config](const ReferenceWeights& weights, const std::string& prefix) {
    return std::make_unique<Reference>(config, weights, prefix);
  };
}

std::vector<json> Variants() {
  json biased = Config();
  biased["qkv_bias"] = true;
  biased["out_bias"] = true;
  json sums = Config();
  sums["normalize"] = false;
  sums["head_dim"] = 10;
  sums["value_dim"] = 7;
  json wide = biased;
  wide["head_dim"] = 64;
  wide["value_dim"] = 32;
  wide["normalizer_eps"] = 0.5;
  return {Config(), biased, sums, wide};
}

TEST(LinearTransformerTest, IsTheFormula) {
  for (const json& config : Variants()) {
    SCOPED_TRACE(config.dump());
    ExpectMixer(config, ReferenceOf(config));
  }
}

TEST(LinearTransformerTest, ScoresAreThoseOfTheFormula) {
  for (const json& config : Variants()) {
    SCOPED_TRACE(config.dump());
    ExpectScores(config, ReferenceOf(config));
  }
}

TEST(LinearTransformerTest, HoldsOverALongStream) {
  ExpectLongStream(Config(), ReferenceOf(Config()), 0);
}

TEST(LinearTransformerTest, HoldsOverOneTokenAgainAndAgain) {
  ExpectLongStream(Config(), ReferenceOf(Config()), 1);
}

TEST(ParseConfigTest, ReadsTheOptionsOfTheLinearTransformer) {
  const auto plain = Parse(Config());
  ASSERT_TRUE(plain.ok()) << plain.status();
  const LinearTransformerShape shape =
      As<LinearTransformer>(LayerOf(*plain)[0]).shape();
  EXPECT_EQ(shape.qkv.key_dim, 12);
  EXPECT_EQ(shape.qkv.value_dim, 12);
  EXPECT_FALSE(shape.qkv.qkv_bias);
  EXPECT_FALSE(shape.qkv.out_bias);
  EXPECT_TRUE(shape.normalized);
  EXPECT_EQ(shape.eps, 1e-6F);
  EXPECT_EQ(plain->positions_max, 0u);

  const auto wide = Parse(Variants()[3]);
  ASSERT_TRUE(wide.ok()) << wide.status();
  const LinearTransformerShape other =
      As<LinearTransformer>(LayerOf(*wide)[0]).shape();
  EXPECT_EQ(other.qkv.key_dim, 64);
  EXPECT_EQ(other.qkv.value_dim, 32);
  EXPECT_TRUE(other.qkv.qkv_bias);
  EXPECT_TRUE(other.qkv.out_bias);
  EXPECT_EQ(other.eps, 0.5F);
}

TEST(ParseConfigTest, RefusesLinearTransformerValuesOutOfRangeByTheirKey) {
  ExpectRefused(Config(),
                {
                    {"num_heads", "0"},
                    {"num_heads", "5"},
                    {"num_heads", "null"},
                    {"head_dim", "0"},
                    {"head_dim", "1025"},
                    {"value_dim", "-1"},
                    {"qkv_bias", "1"},
                    {"out_bias", "\"no\""},
                    {"normalize", "0"},
                    {"normalizer_eps", "0"},
                    {"normalizer_eps", "2"},
                    {"norm_eps", "0"},
                    {"feature_map", "\"relu\""},
                    {"attn", R"({"layers":[1]})"},
                });
}

}  // namespace
}  // namespace weir::engine
