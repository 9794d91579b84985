// SPDX-License-Identifier: Apache-2.0
//
// The Linear Transformer's attention against its formula in fp64.
#include "engine/mixers/linear_transformer.h"

#include <vector>

#include "gtest/gtest.h"
#include "tests/engine/config_case.h"
#include "tests/engine/formula_case.h"

namespace weir::engine {
namespace {

using nlohmann::json;

json Config() {
  return SmallDecoder("weir_linear_transformer", {{"num_heads", 2}});
}

class Reference final : public ReferenceMixer {
 public:
  Reference(const json& config, const ReferenceLayer& layer)
      : layer_(layer),
        sizes_(config),
        normalized_(config.value("normalize", true)),
        eps_(config.value("normalizer_eps", 1e-6)),
        qkv_(config, layer),
        s_(sizes_.heads, DenseState(sizes_.key_dim, sizes_.value_dim)),
        z_(sizes_.heads, Vector(sizes_.key_dim, 0.0)) {}

  Vector Step(const Vector& x) override {
    const ReferenceQkv::Heads now = qkv_.Step(x);
    std::vector<Vector> o;
    for (size_t h = 0; h < sizes_.heads; ++h) {
      const Vector q = Each(EluPlusOne, now.q[h]);
      const Vector k = Each(EluPlusOne, now.k[h]);
      s_[h].Write(k, now.v[h]);
      z_[h] = Plus(z_[h], k);
      const double divisor = normalized_ ? Dot(q, z_[h]) + eps_ : 1;
      o.push_back(Scaled(s_[h].Read(q), 1 / divisor));
    }
    return layer_.Project("o_proj", x.size(), Joined(o));
  }

 private:
  const ReferenceLayer layer_;
  const HeadSizes sizes_;
  const bool normalized_;
  const double eps_;
  ReferenceQkv qkv_;
  std::vector<DenseState> s_;
  std::vector<Vector> z_;
};

json Wide() {
  json config = Config();
  config.update({{"qkv_bias", true},
                 {"out_bias", true},
                 {"head_dim", 64},
                 {"value_dim", 32},
                 {"normalizer_eps", 0.5}});
  return config;
}

INSTANTIATE_TEST_SUITE_P(
    LinearTransformer,
    FormulaTest,
    testing::ValuesIn(FormulasOf<Reference>(
        Config(),
        {{"as_by_default"},
         {"biases", {{"qkv_bias", true}, {"out_bias", true}}},
         {"sums", {{"normalize", false}, {"head_dim", 10}, {"value_dim", 7}}},
         {"wide", Wide()}})),
    FormulaName);

TEST(LinearTransformerTest, HoldsOverALongStream) {
  ExpectLongStream(FormulaOf<Reference>("", Config()), 0);
}

TEST(LinearTransformerTest, HoldsOverOneTokenAgainAndAgain) {
  ExpectLongStream(FormulaOf<Reference>("", Config()), 1);
}

TEST(ParseConfigTest, ReadsTheOptionsOfTheLinearTransformer) {
  const LinearTransformerShape shape = ShapeOf<LinearTransformer>(Config());
  EXPECT_EQ(shape.qkv.key_dim, 12);
  EXPECT_EQ(shape.qkv.value_dim, 12);
  EXPECT_FALSE(shape.qkv.qkv_bias);
  EXPECT_FALSE(shape.qkv.out_bias);
  EXPECT_TRUE(shape.normalized);
  EXPECT_EQ(shape.eps, 1e-6F);
  EXPECT_EQ(Accepted(Config()).positions_max, 0u);

  const LinearTransformerShape other = ShapeOf<LinearTransformer>(Wide());
  EXPECT_EQ(other.qkv.key_dim, 64);
  EXPECT_EQ(other.qkv.value_dim, 32);
  EXPECT_TRUE(other.qkv.qkv_bias);
  EXPECT_TRUE(other.qkv.out_bias);
  EXPECT_EQ(other.eps, 0.5F);
}

TEST(ParseConfigTest, RefusesLinearTransformerValuesOutOfRangeByTheirKey) {
  ExpectRefused(Config(),
                {
                    {"normalize", "0"},
                    {"normalizer_eps", "0"},
                    {"normalizer_eps", "2"},
                    {"feature_map", "\"relu\""},
                },
                {kBadFlaDecoder, kBadPlainQkv});
}

}  // namespace
}  // namespace weir::engine
