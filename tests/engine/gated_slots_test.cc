// SPDX-License-Identifier: Apache-2.0
//
// Gated Slot Attention against its formula in fp64, over every option of the
// gsa format.
#include "engine/mixers/gated_slots.h"

#include <algorithm>
#include <cmath>
#include <string>
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

class Reference final : public ReferenceMixer {
 public:
  Reference(const json& config, const ReferenceLayer& layer)
      : layer_(layer),
        sizes_(config),
        slots_(config.at("num_slots").is_null()
                   ? sizes_.key_dim
                   : config.at("num_slots").get<size_t>()),
        feature_(config.at("feature_map").get<std::string>()),
        normalizer_(config.at("gate_logit_normalizer").get<double>()),
        qkv_(config, layer),
        keys_(sizes_.heads * slots_, Vector(sizes_.key_dim, 0.0)),
        values_(sizes_.heads, DenseState(slots_, sizes_.value_dim)) {}

  // K <- Diag(d) K + (1 - d) k^T;  V <- Diag(d) V + (1 - d) v^T;
  // o = V^T softmax(K q)
  Vector Step(const Vector& x) override {
    const ReferenceQkv::Heads now = qkv_.Step(x);
    const auto f = HeadsOf(layer_.Project("f_proj", sizes_.heads * slots_, x),
                           sizes_.heads,
                           slots_);
    std::vector<Vector> o;
    for (size_t h = 0; h < sizes_.heads; ++h) {
      const Vector q = Feature(now.q[h]);
      const Vector k = Feature(now.k[h]);
      Vector d(slots_), write(slots_), p(slots_);
      for (size_t m = 0; m < slots_; ++m) {
        const double log_decay = -Softplus(-f[h][m]) / normalizer_;
        d[m] = std::exp(log_decay);
        write[m] = -std::expm1(log_decay);
        Vector& key = keys_[h * slots_ + m];
        key = Plus(Scaled(key, d[m]), Scaled(k, write[m]));
        p[m] = Dot(key, q);
      }
      values_[h].Decay(d);
      values_[h].Write(write, Each(Silu, now.v[h]));
      o.push_back(values_[h].Read(Softmax(p)));
    }
    return layer_.Project(
        "o_proj",
        x.size(),
        layer_.RmsNorm("g_norm", 1e-5, Each(Silu, Joined(o))));
  }

 private:
  static double Relu(double x) { return std::max(x, 0.0); }

  Vector Feature(const Vector& x) const {
    if (feature_ == "swish") return Each(Silu, x);
    if (feature_ == "relu") return Each(Relu, x);
    return Each(Relu, layer_.Project("feature_map.layer", x.size(), x));
  }

  const ReferenceLayer layer_;
  const HeadSizes sizes_;
  const size_t slots_;
  const std::string feature_;
  const double normalizer_;
  ReferenceQkv qkv_;
  std::vector<Vector> keys_;  // of each head's slots
  std::vector<DenseState> values_;
};

INSTANTIATE_TEST_SUITE_P(
    GatedSlots,
    FormulaTest,
    testing::ValuesIn(FormulasOf<Reference>(Config(),
                                            {{"as_by_default"},
                                             {"convolved",
                                              {{"use_short_conv", true},
                                               {"conv_bias", true},
                                               {"feature_map", "relu"}}},
                                             {"learned",
                                              {{"feature_map", "t2r"},
                                               {"expand_k", 0.5},
                                               {"gate_logit_normalizer", 1}}},
                                             {"wide",
                                              {{"num_heads", 1},
                                               {"num_slots", 64},
                                               {"expand_k", 2},
                                               {"gate_logit_normalizer", 16},
                                               {"use_short_conv", true}}},
                                             {"as_many_slots_as_keys",
                                              {{"num_slots", nullptr}}}})),
    FormulaName);

TEST(GatedSlotsTest, HoldsOverALongStream) {
  ExpectLongStream(FormulaOf<Reference>("", Config()), 0);
}

TEST(GatedSlotsTest, HoldsOverOneTokenAgainAndAgain) {
  ExpectLongStream(FormulaOf<Reference>("", Config()), 1);
}

TEST(ParseConfigTest, ReadsTheOptionsOfGatedSlots) {
  const GatedSlotsShape shape = ShapeOf<GatedSlots>(Config());
  EXPECT_EQ(shape.slots, 20);
  EXPECT_EQ(shape.normalizer, 8);
  EXPECT_EQ(shape.feature, SlotFeature::kSilu);
  EXPECT_EQ(shape.qkv.key_dim, 12);
  EXPECT_EQ(shape.qkv.conv_width, 0);
  EXPECT_EQ(Accepted(Config()).trained_length, 2048u);

  // Null is as many slots as a head has key channels, and a missing key is 64.
  json config = Config();
  config["num_slots"] = nullptr;
  EXPECT_EQ(ShapeOf<GatedSlots>(config).slots, 12);
  config.erase("num_slots");
  // The published class's own spelling.
  config.erase("expand_k");
  config["exapnd_k"] = 0.5;
  const GatedSlotsShape other = ShapeOf<GatedSlots>(config);
  EXPECT_EQ(other.slots, 64);
  EXPECT_EQ(other.qkv.key_dim, 6);
}

TEST(ParseConfigTest, RefusesGatedSlotsValuesOutOfRangeByTheirKey) {
  ExpectRefused(Config(),
                {
                    {"num_slots", "0"},
                    {"num_slots", "1025"},
                    {"expand_k", "0"},
                    {"expand_k", "0.01"},
                    {"expand_v", "0.5"},
                    {"expand_v", "2"},
                    {"gate_logit_normalizer", "0"},
                    {"gate_logit_normalizer", "\"8\""},
                    {"feature_map", "\"elu\""},
                    {"use_output_gate", "1"},
                    {"use_norm", "\"rms\""},
                },
                {kBadFlaDecoder, kBadShortConvolution, kBadSharedHeads});
}

}  // namespace
}  // namespace weir::engine
