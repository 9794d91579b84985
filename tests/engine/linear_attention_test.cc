// SPDX-License-Identifier: Apache-2.0
//
// Every feature map of the linear_attn format and what may be done with the
// features, against its formula in fp64.
#include <algorithm>
#include <cmath>
#include <numeric>
#include <string>
#include <vector>

#include "gtest/gtest.h"
#include "nlohmann/json.hpp"
#include "tests/engine/engine_driver.h"
#include "tests/engine/formula_case.h"
#include "tests/engine/model_files.h"

namespace weir::engine {
namespace {

using nlohmann::json;

json Config() {
  return SmallDecoder("linear_attn",
                      {{"num_heads", 3},
                       {"expand_v", 1},
                       {"tie_feature_map_qk", false},
                       {"norm_q", false},
                       {"norm_k", false},
                       {"norm_feature_map", false}});
}

class Reference final : public ReferenceMixer {
 public:
  Reference(const json& config, const ReferenceLayer& layer)
      : layer_(layer),
        sizes_(config),
        feature_(config.value("feature_map", "elementwise_product")),
        tied_(config.at("tie_feature_map_qk").get<bool>()),
        divided_queries_(config.at("norm_q").get<bool>()),
        divided_keys_(config.at("norm_k").get<bool>()),
        normalized_(config.at("norm_feature_map").get<bool>()),
        qkv_(config, layer) {}

  // S <- S + k v^T;  o = S^T q, over q.z + 1e-10 with z <- z + k
  Vector Step(const Vector& x) override {
    const ReferenceQkv::Heads now = qkv_.Step(x);
    std::vector<Vector> o;
    for (size_t h = 0; h < sizes_.heads; ++h) {
      Vector q = Map(tied_ ? "feature_map_k." : "feature_map_q.", now.q[h]);
      Vector k = Map("feature_map_k.", now.k[h]);
      if (divided_queries_) q = Divided(q);
      if (divided_keys_) k = Divided(k);
      q = Scaled(q, 1 / std::sqrt(static_cast<double>(q.size())));
      // How many features a map has is seen here.
      states_.resize(sizes_.heads, DenseState(k.size(), sizes_.value_dim));
      sums_.resize(sizes_.heads, Vector(k.size(), 0.0));
      states_[h].Write(k, now.v[h]);
      sums_[h] = Plus(sums_[h], k);
      const double divisor = normalized_ ? Dot(q, sums_[h]) + 1e-10 : 1;
      o.push_back(layer_.RmsNorm(
          "norm", 1e-5, Scaled(states_[h].Read(q), 1 / divisor)));
    }
    return layer_.Project("o_proj", x.size(), Joined(o));
  }

 private:
  Vector Layer(const std::string& name, const Vector& x) const {
    return layer_.Project(name, x.size(), x);
  }

  static Vector Dpfp(const Vector& x) {
    Vector r;
    for (const double value : x) r.push_back(std::fmax(value, 0));
    for (const double value : x) r.push_back(std::fmax(-value, 0));
    Vector y;
    for (size_t shift = 1; shift <= 4; ++shift) {
      for (size_t i = 0; i < r.size(); ++i) {
        y.push_back(r[i] * r[(i + r.size() - shift) % r.size()]);
      }
    }
    return y;
  }

  Vector Map(const std::string& map, const Vector& x) const {
    if (feature_ == "elementwise_product") {
      return Times(Layer(map + "layer1", x), Layer(map + "layer2", x));
    }
    if (feature_ == "hedgehog") {
      const Vector y = Layer(map + "layer", x);
      return Softmax(Joined({Scaled(y, 2), Scaled(y, -2)}));
    }
    if (feature_ == "dpfp") return Dpfp(x);
    if (feature_ == "elu") return Each(EluPlusOne, x);
    if (feature_ == "identity") return x;
    return Each(Relu, feature_ == "t2r" ? Layer(map + "layer", x) : x);
  }

  static double Relu(double x) { return std::max(x, 0.0); }

  static Vector Divided(const Vector& x) {
    return Scaled(x, 1 / std::accumulate(x.begin(), x.end(), 1e-4));
  }

  const ReferenceLayer layer_;
  const HeadSizes sizes_;
  const std::string feature_;
  const bool tied_;
  const bool divided_queries_;
  const bool divided_keys_;
  const bool normalized_;
  ReferenceQkv qkv_;
  std::vector<DenseState> states_;
  std::vector<Vector> sums_;
};

// All above zero where they are summed, so that no sum is near it.
void RaiseFeatures(const std::string& name, std::vector<float>& values) {
  if (name.find("feature_map") == std::string::npos) return;
  if (!name.ends_with(".bias")) return;
  for (float& value : values) value += 1;
}

std::vector<Formula> Formulas() {
  auto formulas = FormulasOf<Reference>(
      Config(),
      {{"as_by_default"},
       {"tied_products", {{"expand_v", 2}, {"tie_feature_map_qk", true}}},
       {"hedgehog", {{"feature_map", "hedgehog"}}},
       {"tied_hedgehog",
        {{"feature_map", "hedgehog"}, {"tie_feature_map_qk", true}}},
       {"t2r", {{"feature_map", "t2r"}}},
       {"tied_t2r", {{"feature_map", "t2r"}, {"tie_feature_map_qk", true}}},
       {"dpfp", {{"feature_map", "dpfp"}}},
       {"narrow_dpfp",
        {{"feature_map", "dpfp"}, {"num_heads", 24}, {"expand_v", 4}}},
       {"identity", {{"feature_map", "identity"}}},
       {"relu", {{"feature_map", "relu"}}},
       {"elu", {{"feature_map", "elu"}}},
       {"divided_queries", {{"feature_map", "elu"}, {"norm_q", true}}},
       {"divided_keys", {{"feature_map", "t2r"}, {"norm_k", true}}},
       {"all_at_once",
        {{"feature_map", "hedgehog"},
         {"num_heads", 2},
         {"expand_v", 0.5},
         {"tie_feature_map_qk", true},
         {"norm_q", true},
         {"norm_k", true},
         {"norm_feature_map", true}}},
       {"normalized_dpfp",
        {{"feature_map", "dpfp"}, {"norm_feature_map", true}}}});
  for (Formula& formula : formulas) formula.edit = RaiseFeatures;
  return formulas;
}

INSTANTIATE_TEST_SUITE_P(LinearAttention,
                         FormulaTest,
                         testing::ValuesIn(Formulas()),
                         FormulaName);

// A norm over one channel is a sign, but where the channel is near zero: there
// what fp32 has rounded weighs hundreds of times as much, so that a mixer alone
// cannot be held to 1e-6. Nor can scores on every processor: 1.05e-6 with AVX2.
TEST(LinearAttentionTest, ScoresAreThoseOfTheFormulaWhereAHeadIsOneChannel) {
  json config = Config();
  config["feature_map"] = "dpfp";
  config["num_heads"] = 24;
  ExpectScores(FormulaOf<Reference>("", config), 2e-6);
}

// Without the normaliser too, where the norm behind it would take a common
// factor away: the drift of a long sum is none.
TEST(LinearAttentionTest, HoldsOverOneTokenAgainAndAgain) {
  for (const bool normalized : {false, true}) {
    SCOPED_TRACE(normalized ? "normalised" : "not normalised");
    json config = Config();
    config["feature_map"] = "elu";
    config["norm_feature_map"] = normalized;
    ExpectLongStream(FormulaOf<Reference>("", config), 1);
  }
}

// A tied map is one tensor with two names, and a checkpoint may hold both.
TEST(TiedFeaturesTest, ASecondCopyUnderTheQueriesNameChangesNothing) {
  json config = Config();
  config["feature_map"] = "t2r";
  config["tie_feature_map_qk"] = true;
  const ModelCopy once(config, DrawWeights(FormulaOf<Reference>("", config)));
  ModelCopy twice(once.config, once.weights);
  for (const char* layer : {"0", "1"}) {
    const std::string attn = "model.layers." + std::string(layer) + ".attn.";
    twice.weights.tensors[attn + "feature_map_q.layer.weight"] =
        once.weights.tensors.at(attn + "feature_map_k.layer.weight");
  }
  twice.Write();

  ExpectSameScores(once.path(), twice.path(), 0);
}

}  // namespace
}  // namespace weir::engine
