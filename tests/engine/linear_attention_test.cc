// SPDX-License-Identifier: Apache-2.0
//
// Every feature map of the linear_attn format and what may be done with the
// features, against a forward pass written anew from the published formulas.
#include <cmath>
#include <cstdint>
#include <numeric>
#include <string>
#include <utility>
#include <vector>

#include "gtest/gtest.h"
#include "nlohmann/json.hpp"
#include "tests/engine/engine_driver.h"
#include "tests/engine/fla_reference.h"
#include "tests/engine/model_files.h"

namespace weir::engine {
namespace {

using nlohmann::json;

struct Options {
  const char* name;
  const char* feature = nullptr;  // by default
  int heads = 3;
  double expand_v = 1;
  bool tied = false;
  bool divided_queries = false;
  bool divided_keys = false;
  bool normalized = false;
};

class LinearAttentionReference final : public FlaReference {
 public:
  explicit LinearAttentionReference(const Options& options)
      : options_(options),
        key_dim_(kHidden / options.heads),
        value_dim_(
            static_cast<int>(kHidden * options.expand_v / options.heads)) {}

 private:
  std::string Feature() const {
    return options_.feature == nullptr ? "elementwise_product"
                                       : options_.feature;
  }

  json MixerConfig() const override {
    json config = {{"model_type", "linear_attn"},
                   {"num_heads", options_.heads},
                   {"expand_v", options_.expand_v},
                   {"tie_feature_map_qk", options_.tied},
                   {"norm_q", options_.divided_queries},
                   {"norm_k", options_.divided_keys},
                   {"norm_feature_map", options_.normalized}};
    if (options_.feature != nullptr) config["feature_map"] = options_.feature;
    return config;
  }

  void AddMap(const std::string& map) {
    const bool two = Feature() == "elementwise_product";
    if (!two && Feature() != "t2r" && Feature() != "hedgehog") return;
    for (const char* layer : {"1", "2"}) {
      const std::string name = map + "layer" + (two ? layer : "");
      // All above zero where they are summed, so that no sum is near it.
      Add(name + ".weight", {key_dim_, key_dim_}, 0.4F);
      if (Feature() != "t2r") Add(name + ".bias", {key_dim_}, 0.3F, 1);
      if (!two) return;
    }
  }

  void AddMixer(const std::string& attn) override {
    const int values = options_.heads * value_dim_;
    AddPart(attn, "q", kHidden, false, false);
    AddPart(attn, "k", kHidden, false, false);
    AddPart(attn, "v", values, false, false);
    if (!options_.tied) AddMap(attn + "feature_map_q.");
    AddMap(attn + "feature_map_k.");
    Add(attn + "norm.weight", {value_dim_}, 0.1F, 1);
    Add(attn + "o_proj.weight", {kHidden, values}, 0.2F);
  }

  Vector Affine(const std::string& layer, const Vector& x) const {
    Vector y = Multiply(layer + ".weight", x);
    for (size_t i = 0; i < y.size(); ++i) y[i] += T(layer + ".bias")[i];
    return y;
  }

  static Vector Softmax(Vector y) {
    double sum = 0;
    for (double& value : y) sum += value = std::exp(value);
    for (double& value : y) value /= sum;
    return y;
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

  Vector Map(const std::string& map, Vector x) const {
    if (Feature() == "elementwise_product") {
      Vector y = Affine(map + "layer1", x);
      const Vector other = Affine(map + "layer2", x);
      for (size_t i = 0; i < y.size(); ++i) y[i] *= other[i];
      return y;
    }
    if (Feature() == "hedgehog") {
      const Vector y = Affine(map + "layer", x);
      Vector both;
      for (const double sign : {2.0, -2.0}) {
        for (const double value : y) both.push_back(sign * value);
      }
      return Softmax(both);
    }
    if (Feature() == "dpfp") return Dpfp(x);
    if (Feature() == "t2r") x = Multiply(map + "layer.weight", x);
    for (double& value : x) {
      if (Feature() == "elu") {
        value = value > 0 ? value + 1 : std::exp(value);
      } else if (Feature() != "identity") {
        value = std::fmax(value, 0);
      }
    }
    return x;
  }

  static Vector Divided(Vector x) {
    const double sum = std::accumulate(x.begin(), x.end(), 1e-4);
    for (double& value : x) value /= sum;
    return x;
  }

  // S <- S + k v^T;  o = S^T q, over q.z + 1e-10 with z <- z + k
  Vector Mix(int /*layer*/, const std::string& attn, const Vector& x) override {
    const std::string key_map = attn + "feature_map_k.";
    const std::string query_map =
        options_.tied ? key_map : attn + "feature_map_q.";
    const Vector queries = Part(attn, "q", x, false, false);
    const Vector keys = Part(attn, "k", x, false, false);
    const Vector values = Part(attn, "v", x, false, false);
    Vector out;
    for (int h = 0; h < options_.heads; ++h) {
      Vector q = Map(query_map, HeadOf(queries, h, key_dim_));
      Vector k = Map(key_map, HeadOf(keys, h, key_dim_));
      if (options_.divided_queries) q = Divided(q);
      if (options_.divided_keys) k = Divided(k);
      for (double& value : q) {
        value /= std::sqrt(static_cast<double>(q.size()));
      }
      DenseState& state = State(attn + std::to_string(h));
      DenseState& sum = State(attn + "sum" + std::to_string(h));
      state.Write(k, HeadOf(values, h, value_dim_));
      sum.Write(k, {1.0});
      Vector o = state.Read(q, value_dim_);
      if (options_.normalized) {
        const double read = sum.Read(q, 1)[0] + 1e-10;
        for (double& value : o) value /= read;
      }
      const Vector normed = Norm(o, attn + "norm.weight", kEps);
      out.insert(out.end(), normed.begin(), normed.end());
    }
    return Multiply(attn + "o_proj.weight", out);
  }

  const Options options_;
  const int key_dim_;
  const int value_dim_;
};

class LinearAttentionTest : public testing::TestWithParam<Options> {};

TEST_P(LinearAttentionTest, ScoresAreThoseOfTheFormulas) {
  LinearAttentionReference reference(GetParam());
  ExpectScoresOfTheFormulas(reference);
}

INSTANTIATE_TEST_SUITE_P(
    Options,
    LinearAttentionTest,
    testing::Values(
        Options{.name = "as_by_default"},
        Options{.name = "tied_products", .expand_v = 2, .tied = true},
        Options{.name = "hedgehog", .feature = "hedgehog"},
        Options{.name = "tied_hedgehog", .feature = "hedgehog", .tied = true},
        Options{.name = "t2r", .feature = "t2r"},
        Options{.name = "tied_t2r", .feature = "t2r", .tied = true},
        Options{.name = "dpfp", .feature = "dpfp"},
        Options{.name = "narrow_dpfp", .feature = "dpfp", .heads = 24},
        Options{.name = "identity", .feature = "identity"},
        Options{.name = "relu", .feature = "relu"},
        Options{.name = "elu", .feature = "elu"},
        Options{.name = "divided_queries",
                .feature = "elu",
                .divided_queries = true},
        Options{.name = "divided_keys", .feature = "t2r", .divided_keys = true},
        Options{.name = "all_at_once",
                .feature = "hedgehog",
                .heads = 2,
                .expand_v = 0.5,
                .tied = true,
                .divided_queries = true,
                .divided_keys = true,
                .normalized = true},
        Options{
            .name = "normalized_dpfp", .feature = "dpfp", .normalized = true}),
    [](const testing::TestParamInfo<Options>& info) {
      return std::string(info.param.name);
    });

// A tied map is one tensor with two names, and a checkpoint may hold both.
TEST(TiedFeaturesTest, ASecondCopyUnderTheQueriesNameChangesNothing) {
  LinearAttentionReference reference(
      {.name = "", .feature = "t2r", .tied = true});
  reference.Build();
  const TempFolder folder;
  WriteFileBytes(folder.File("config.json"), reference.Config().dump());
  TensorFile files = reference.files();
  files.Write(folder.File("model.safetensors"));
  const auto scores = ScoresOf(folder.path(), FlaReference::kVocabulary, 80, 9);
  for (const char* layer : {"0", "1"}) {
    const std::string attn = "model.layers." + std::string(layer) + ".attn.";
    files.tensors[attn + "feature_map_q.layer.weight"] =
        files.tensors.at(attn + "feature_map_k.layer.weight");
  }
  files.Write(folder.File("model.safetensors"));

  ASSERT_EQ(scores.size(), 79U);
  EXPECT_EQ(ScoresOf(folder.path(), FlaReference::kVocabulary, 80, 9), scores);
}

}  // namespace
}  // namespace weir::engine
