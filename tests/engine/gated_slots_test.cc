// SPDX-License-Identifier: Apache-2.0
//
// Gated Slot Attention against its formula in fp64, over every option of the
// gsa format.
#include "engine/mixers/gated_slots.h"

#include <algorithm>
#include <cmath>
#include <map>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "gtest/gtest.h"
#include "tests/engine/config_case.h"
#include "tests/engine/formula_case.h"

namespace weir::engine {
namespace {

using nlohmann::json;

// As flash-linear-attention 0.6.0 writes one.
json Config() {
  return json::parse(R"({
    "architectures": ["GSAForCausalLM"], "attn": null,
    "attnres_block_size": null, "bos_token_id": 1, "clamp_max": null,
    "clamp_min": null, "conv_size": 3, "dtype": "float32",
    "elementwise_affine": true, "eos_token_id": 2, "expand_k": 1,
    "expand_v": 1, "feature_map": "swish", "fuse_cross_entropy": true,
    "fuse_linear_cross_entropy": false, "fuse_norm": true,
    "fuse_swiglu": true, "gate_logit_normalizer": 8, "hidden_act": "swish",
    "hidden_ratio": 4, "hidden_size": 24, "initializer_range": 0.02,
    "intermediate_size": 40, "max_position_embeddings": 2048,
    "model_type": "gsa", "norm_eps": 1e-5, "num_heads": 2,
    "num_hidden_layers": 2, "num_kv_heads": null, "num_slots": 20,
    "tie_word_embeddings": false, "use_cache": true, "use_l2warp": false,
    "use_norm": true, "use_output_gate": false, "use_short_conv": false,
    "vocab_size": 50
  })");
}

double Silu(double x) { return x / (1 + std::exp(-x)); }

class Reference final : public ReferenceMixer {
 public:
  Reference(const json& config,
            const ReferenceWeights& weights,
            std::string prefix)
      : weights_(weights),
        prefix_(std::move(prefix)),
        heads_(config.at("num_heads").get<size_t>()),
        feature_(config.at("feature_map").get<std::string>()),
        normalizer_(config.at("gate_logit_normalizer").get<double>()),
        conv_(config.at("use_short_conv").get<bool>()) {}

  Vector Step(const Vector& x) override {
    const Vector q = Feature(Part("q", x));
    const Vector k = Feature(Part("k", x));
    Vector v = Part("v", x);
    for (double& value : v) value = Silu(value);
    const Vector f = weights_.Project(prefix_ + "f_proj", x);
    const size_t keys = q.size() / heads_;
    const size_t values = v.size() / heads_;
    const size_t slots = f.size() / heads_;
    slot_keys_.resize(heads_ * slots * keys, 0.0);
    slot_values_.resize(heads_ * slots * values, 0.0);
    Vector o(v.size(), 0.0);
    for (size_t h = 0; h < heads_; ++h) {
      Vector p(slots, 0.0);
      for (size_t m = 0; m < slots; ++m) {
        const double log_decay =
            -std::log1p(std::exp(-f[h * slots + m])) / normalizer_;
        const double write = -std::expm1(log_decay);
        for (size_t i = 0; i < keys; ++i) {
          double& s = slot_keys_[(h * slots + m) * keys + i];
          s = std::exp(log_decay) * s + write * k[h * keys + i];
          p[m] += s * q[h * keys + i];
        }
        for (size_t j = 0; j < values; ++j) {
          double& s = slot_values_[(h * slots + m) * values + j];
          s = std::exp(log_decay) * s + write * v[h * values + j];
        }
      }
      const double high = *std::max_element(p.begin(), p.end());
      double sum = 0;
      for (double& weight : p) sum += weight = std::exp(weight - high);
      for (size_t m = 0; m < slots; ++m) {
        for (size_t j = 0; j < values; ++j) {
          o[h * values + j] +=
              p[m] / sum * slot_values_[(h * slots + m) * values + j];
        }
      }
    }
    for (double& value : o) value = Silu(value);
    return weights_.Project(prefix_ + "o_proj",
                            weights_.RmsNorm(prefix_ + "g_norm", 1e-5, o));
  }

 private:
  Vector Part(const std::string& part, const Vector& x) {
    Vector now = weights_.Project(prefix_ + part + "_proj", x);
    if (!conv_) return now;
    const auto& taps = weights_[prefix_ + part + "_conv1d.weight"];
    const size_t width = taps.size() / now.size();
    auto& past = past_[part];
    past.resize(width, Vector(now.size(), 0.0));
    past.erase(past.begin());
    past.push_back(now);
    const std::string bias = prefix_ + part + "_conv1d.bias";
    for (size_t c = 0; c < now.size(); ++c) {
      now[c] = weights_.Has(bias) ? weights_[bias][c] : 0;
      for (size_t w = 0; w < width; ++w) {
        now[c] += taps[c * width + w] * past[w][c];
      }
      now[c] = Silu(now[c]);
    }
    return now;
  }

  Vector Feature(const Vector& x) const {
    Vector y;
    if (feature_ == "t2r") {
      const auto dim = static_cast<int64_t>(x.size() / heads_);
      for (auto at = x.begin(); at != x.end(); at += dim) {
        const Vector head = weights_.Project(prefix_ + "feature_map.layer",
                                             Vector(at, at + dim));
        y.insert(y.end(), head.begin(), head.end());
      }
    } else {
      y = x;
    }
    for (double& value : y) {
      value = feature_ == "swish" ? Silu(value) : std::max(value, 0.0);
    }
    return y;
  }

  const ReferenceWeights& weights_;
  const std::string prefix_;
  const size_t heads_;
  const std::string feature_;
  const double normalizer_;
  const bool conv_;
  Vector slot_keys_;
  Vector slot_values_;
  std::map<std::string, std::vector<Vector>> past_;
};

MakeReference ReferenceOf(const json& config) {
  return [config](const ReferenceWeights& weights, const std::string& prefix) {
    return std::make_unique<Reference>(config, weights, prefix);
  };
}

std::vector<json> Variants() {
  json convolved = Config();
  convolved["use_short_conv"] = true;
  convolved["conv_bias"] = true;
  convolved["feature_map"] = "relu";
  json learned = Config();
  learned["feature_map"] = "t2r";
  learned["expand_k"] = 0.5;
  learned["gate_logit_normalizer"] = 1;
  json wide = Config();
  wide["num_heads"] = 1;
  wide["num_slots"] = 64;
  wide["expand_k"] = 2;
  wide["gate_logit_normalizer"] = 16;
  wide["use_short_conv"] = true;
  json as_many = Config();
  as_many["num_slots"] = nullptr;
  return {Config(), convolved, learned, wide, as_many};
}

TEST(GatedSlotsTest, IsTheFormula) {
  for (const json& config : Variants()) {
    SCOPED_TRACE(config.dump());
    ExpectMixer(config, ReferenceOf(config));
  }
}

TEST(GatedSlotsTest, ScoresAreThoseOfTheFormula) {
  for (const json& config : Variants()) {
    SCOPED_TRACE(config.dump());
    ExpectScores(config, ReferenceOf(config));
  }
}

TEST(GatedSlotsTest, HoldsOverALongStream) {
  ExpectLongStream(Config(), ReferenceOf(Config()), 0);
}

TEST(GatedSlotsTest, HoldsOverOneTokenAgainAndAgain) {
  ExpectLongStream(Config(), ReferenceOf(Config()), 1);
}

TEST(ParseConfigTest, ReadsTheOptionsOfGatedSlots) {
  const auto plain = Parse(Config());
  ASSERT_TRUE(plain.ok()) << plain.status();
  const GatedSlotsShape shape = As<GatedSlots>(LayerOf(*plain)[0]).shape();
  EXPECT_EQ(shape.slots, 20);
  EXPECT_EQ(shape.normalizer, 8);
  EXPECT_EQ(shape.feature, SlotFeature::kSilu);
  EXPECT_EQ(shape.qkv.key_dim, 12);
  EXPECT_EQ(shape.qkv.conv_width, 0);
  EXPECT_EQ(plain->trained_length, 2048u);

  // Null is as many slots as a head has key channels, and a missing key is 64.
  json config = Variants()[4];
  const auto as_many = Parse(config);
  ASSERT_TRUE(as_many.ok()) << as_many.status();
  EXPECT_EQ(As<GatedSlots>(LayerOf(*as_many)[0]).shape().slots, 12);
  config.erase("num_slots");
  // The published class's own spelling.
  config.erase("expand_k");
  config["exapnd_k"] = 0.5;
  const auto open = Parse(config);
  ASSERT_TRUE(open.ok()) << open.status();
  const GatedSlotsShape other = As<GatedSlots>(LayerOf(*open)[0]).shape();
  EXPECT_EQ(other.slots, 64);
  EXPECT_EQ(other.qkv.key_dim, 6);
}

TEST(ParseConfigTest, RefusesGatedSlotsValuesOutOfRangeByTheirKey) {
  ExpectRefused(Config(),
                {
                    {"num_heads", "0"},
                    {"num_kv_heads", "3"},
                    {"num_slots", "0"},
                    {"num_slots", "1025"},
                    {"expand_k", "0"},
                    {"expand_k", "0.01"},
                    {"expand_v", "0.5"},
                    {"expand_v", "2"},
                    {"gate_logit_normalizer", "0"},
                    {"gate_logit_normalizer", "\"8\""},
                    {"feature_map", "\"elu\""},
                    {"use_short_conv", "1"},
                    {"conv_size", "1"},
                    {"conv_bias", "\"no\""},
                    {"use_output_gate", "1"},
                    {"use_norm", "\"rms\""},
                    {"elementwise_affine", "false"},
                    {"hidden_act", "\"gelu\""},
                    {"attn", R"({"layers":[1]})"},
                    {"attnres_block_size", "2"},
                    {"norm_eps", "0"},
                });
}

}  // namespace
}  // namespace weir::engine
