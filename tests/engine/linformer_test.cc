// SPDX-License-Identifier: Apache-2.0
//
// Causal Linformer against its formula in fp64: of each prefix the slots E^T K
// and F^T V, and softmax attention over them.
#include "engine/mixers/linformer.h"

#include <algorithm>
#include <cmath>
#include <memory>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "gtest/gtest.h"
#include "tests/engine/config_case.h"
#include "tests/engine/formula_case.h"

namespace weir::engine {
namespace {

using nlohmann::json;

json Config() {
  return {{"model_type", "weir_linformer"},
          {"hidden_size", 24},
          {"num_hidden_layers", 2},
          {"vocab_size", 50},
          {"intermediate_size", 40},
          {"norm_eps", 1e-5},
          {"num_heads", 2},
          {"num_slots", 20},
          {"n_max", 400}};
}

// With the inputs themselves in the slots where they are projected after: then
// K~ = W_k (E^T X) + b, as those who compress first have it.
class Reference final : public ReferenceMixer {
 public:
  Reference(const json& config,
            const ReferenceWeights& weights,
            std::string prefix)
      : weights_(weights),
        prefix_(std::move(prefix)),
        heads_(config.at("num_heads").get<size_t>()),
        slots_(config.at("num_slots").get<size_t>()),
        n_max_(config.at("n_max").get<size_t>()),
        sharing_(config.value("sharing", "headwise")),
        first_(config.value("projection", "before") == "before"),
        segments_(config.value("past_n_max", "refuse") == "new_segment") {}

  Vector Step(const Vector& x) override {
    if (position_ == n_max_ && segments_) {
      position_ = 0;
      keys_.clear();
      values_.clear();
    }
    const Vector q = weights_.Project(prefix_ + "q_proj", x);
    const Vector k = first_ ? weights_.Project(prefix_ + "k_proj", x) : x;
    const Vector v = first_ ? weights_.Project(prefix_ + "v_proj", x) : x;
    const size_t width = q.size() / heads_;
    const auto e = Rows("_k");
    const auto f = Rows("_v");
    Vector o;
    keys_.resize(heads_ * slots_, Vector(k.size(), 0.0));
    values_.resize(heads_ * slots_, Vector(v.size(), 0.0));
    for (size_t h = 0; h < heads_; ++h) {
      Vector p(slots_, 0.0);
      std::vector<Vector> slot_values;
      for (size_t m = 0; m < slots_; ++m) {
        Vector& key = keys_[h * slots_ + m];
        Vector& value = values_[h * slots_ + m];
        for (size_t i = 0; i < k.size(); ++i) key[i] += e[h][m] * k[i];
        for (size_t i = 0; i < v.size(); ++i) {
          value[i] += f[h][m] * v[i];
        }
        const Vector whole =
            first_ ? key : weights_.Project(prefix_ + "k_proj", key);
        for (size_t i = h * width; i < (h + 1) * width; ++i) {
          p[m] += q[i] * whole[i] / std::sqrt(static_cast<double>(width));
        }
        slot_values.push_back(
            first_ ? value : weights_.Project(prefix_ + "v_proj", value));
      }
      const double high = *std::max_element(p.begin(), p.end());
      double sum = 0;
      for (double& weight : p) sum += weight = std::exp(weight - high);
      const size_t dim = slot_values[0].size() / heads_;
      for (size_t j = h * dim; j < (h + 1) * dim; ++j) {
        double read = 0;
        for (size_t m = 0; m < slots_; ++m) {
          read += p[m] / sum * slot_values[m][j];
        }
        o.push_back(read);
      }
    }
    ++position_;
    return weights_.Project(prefix_ + "o_proj", o);
  }

 private:
  // The rows of E or F for this position, of each head.
  std::vector<const float*> Rows(const std::string& which) const {
    const auto& matrix =
        weights_[prefix_ + "compress" + (sharing_ == "key_value" ? "" : which)];
    std::vector<const float*> rows;
    for (size_t h = 0; h < heads_; ++h) {
      const size_t first = sharing_ == "none" ? h * n_max_ : 0;
      rows.push_back(matrix.data() + (first + position_) * slots_);
    }
    return rows;
  }

  const ReferenceWeights& weights_;
  const std::string prefix_;
  const size_t heads_;
  const size_t slots_;
  const size_t n_max_;
  const std::string sharing_;
  const bool first_;
  const bool segments_;
  size_t position_ = 0;
  std::vector<Vector> keys_;
  std::vector<Vector> values_;
};

MakeReference ReferenceOf(const json& config) {
  return [config](const ReferenceWeights& weights, const std::string& prefix) {
    return std::make_unique<Reference>(config, weights, prefix);
  };
}

json Segments(int n_max) {
  json config = Config();
  config["past_n_max"] = "new_segment";
  config["n_max"] = n_max;
  return config;
}

std::vector<json> Variants() {
  json of_heads = Config();
  of_heads["sharing"] = "none";
  of_heads["qkv_bias"] = true;
  of_heads["out_bias"] = true;
  json projected_after = Segments(70);
  projected_after["sharing"] = "key_value";
  projected_after["projection"] = "after";
  projected_after["qkv_bias"] = true;
  projected_after["value_dim"] = 20;
  json wide = Segments(1);
  wide["num_slots"] = 64;
  return {Config(), of_heads, projected_after, Segments(64), wide};
}

TEST(LinformerTest, IsTheFormula) {
  for (const json& config : Variants()) {
    SCOPED_TRACE(config.dump());
    ExpectMixer(config, ReferenceOf(config));
  }
}

TEST(LinformerTest, ScoresAreThoseOfTheFormula) {
  for (const json& config : Variants()) {
    SCOPED_TRACE(config.dump());
    ExpectScores(config, ReferenceOf(config));
  }
}

// Scores grow with the slots, which nothing norms, and saturate the softmax: a
// score of 1,000 in fp32 has four digits behind the point.
TEST(LinformerTest, HoldsOverManySegments) {
  ExpectLongStream(Segments(300), ReferenceOf(Segments(300)), 0);
}

// A segment forgets all that was before it: what it gives does not depend on
// it, to the bit.
TEST(LinformerTest, ASegmentKnowsNothingOfThoseBeforeIt) {
  MixerCase mixer(Segments(64), 7);
  const auto x = mixer.Input(64);
  const auto before = mixer.Input(128);
  for (const int64_t piece : {1, 64}) {
    const int32_t fresh = mixer.NewSlot();
    const int32_t used = mixer.NewSlot();
    mixer.Feed(used, std::span(before).last(before.size() / 2), 64);

    EXPECT_EQ(mixer.Feed(used, x, piece), mixer.Feed(fresh, x, piece));
    mixer.pool().Release(fresh);
    mixer.pool().Release(used);
  }
}

// The service refuses such an append; a state that meets one all the same says
// so, and no row beyond the matrices is read.
TEST(LinformerTest, PastItsPositionsTheOutputsAreNaN) {
  json config = Config();
  config["n_max"] = 10;
  MixerCase mixer(config, 7);
  const int32_t slot = mixer.NewSlot();
  const auto x = mixer.Input(12);

  const auto out = mixer.Feed(slot, x, 12);

  for (size_t i = 0; i < out.size(); ++i) {
    EXPECT_EQ(std::isnan(out[i]), i >= size_t{10} * 24) << i;
  }
}

TEST(ParseConfigTest, ReadsTheOptionsOfLinformer) {
  const auto plain = Parse(Config());
  ASSERT_TRUE(plain.ok()) << plain.status();
  const LinformerShape shape = As<Linformer>(LayerOf(*plain)[0]).shape();
  EXPECT_EQ(shape.slots, 20);
  EXPECT_EQ(shape.n_max, 400);
  EXPECT_EQ(shape.sharing, SlotSharing::kHeadwise);
  EXPECT_TRUE(shape.project_first);
  EXPECT_FALSE(shape.new_segment);
  EXPECT_EQ(plain->positions_max, 400u);

  const auto after = Parse(Variants()[2]);
  ASSERT_TRUE(after.ok()) << after.status();
  const LinformerShape other = As<Linformer>(LayerOf(*after)[0]).shape();
  EXPECT_EQ(other.sharing, SlotSharing::kKeyValue);
  EXPECT_FALSE(other.project_first);
  EXPECT_TRUE(other.new_segment);
  EXPECT_EQ(other.qkv.value_dim, 20);
  EXPECT_EQ(after->positions_max, 0u);
}

TEST(ParseConfigTest, RefusesLinformerValuesOutOfRangeByTheirKey) {
  ExpectRefused(Config(),
                {
                    {"num_heads", "0"},
                    {"num_heads", "5"},
                    {"head_dim", "1025"},
                    {"value_dim", "0"},
                    {"qkv_bias", "1"},
                    {"num_slots", "0"},
                    {"num_slots", "1025"},
                    {"num_slots", "null"},
                    {"n_max", "0"},
                    {"n_max", "1048577"},
                    {"n_max", "null"},
                    {"sharing", "\"layerwise\""},
                    {"projection", "\"both\""},
                    {"past_n_max", "\"wrap\""},
                    {"past_n_max", "true"},
                    {"dropout", "0.1"},
                });
}

}  // namespace
}  // namespace weir::engine
