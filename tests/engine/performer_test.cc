// SPDX-License-Identifier: Apache-2.0
//
// The Performer's attention against its published formula in fp64: for each
// token that of the prefix which ends there, with the maximum over that prefix.
#include "engine/mixers/performer.h"

#include <algorithm>
#include <cmath>
#include <map>
#include <random>
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
  return SmallDecoder("weir_performer",
                      {{"num_heads", 2}, {"num_features", 30}});
}

struct Options {
  explicit Options(const json& config)
      : features(config.at("num_features").get<size_t>()),
        relu(config.value("kernel", "favor") == "relu"),
        shared(config.value("shared_features", true)),
        scaled(config.value("normalize_data", true)),
        feature_eps(config.value("feature_eps", relu ? 1e-3 : 1e-4)),
        eps(config.value("normalizer_eps", 1e-6)) {}

  size_t features;
  bool relu;
  bool shared;
  bool scaled;
  double feature_eps;
  double eps;
};

// u = W x of a scaled x, and h = |x|^2 / 2.
struct Projected {
  Vector u;
  double half = 0;
};

// What all forms of the formula have in common.
class Base : public ReferenceMixer {
 public:
  Base(const json& config, const ReferenceLayer& layer)
      : options_(config),
        layer_(layer),
        heads_(HeadSizes(config).heads),
        qkv_(config, layer) {}

  Vector Step(const Vector& x) override {
    const ReferenceQkv::Heads now = qkv_.Step(x);
    std::vector<Vector> o;
    for (size_t h = 0; h < heads_; ++h) {
      o.push_back(
          Head(h, Project(h, now.q[h]), Project(h, now.k[h]), now.v[h]));
    }
    return layer_.Project("o_proj", x.size(), Joined(o));
  }

 protected:
  virtual Vector Head(size_t head,
                      const Projected& q,
                      const Projected& k,
                      const Vector& v) = 0;

  Projected Project(size_t head, const Vector& x) const {
    const size_t features = options_.features;
    const double c =
        options_.scaled ? std::pow(static_cast<double>(x.size()), -0.25) : 1;
    const Vector scaled = Scaled(x, c);
    std::vector<size_t> shape = {features, x.size()};
    if (!options_.shared) shape.insert(shape.begin(), heads_);
    const float* row = layer_.Get("projection_matrix", shape).data() +
                       (options_.shared ? 0 : head * features * x.size());
    Projected out = {.u = {}, .half = Dot(scaled, scaled) / 2};
    for (size_t r = 0; r < features; ++r, row += x.size()) {
      out.u.push_back(Dot(scaled, Vector(row, row + x.size())));
    }
    return out;
  }

  const Options options_;

 private:
  const ReferenceLayer layer_;
  const size_t heads_;
  ReferenceQkv qkv_;
};

double MaxOf(const Vector& x) { return *std::max_element(x.begin(), x.end()); }

// The published formula on the whole prefix, anew for every token: quadratic.
class Published final : public Base {
 public:
  using Base::Base;

 protected:
  Vector Head(size_t head,
              const Projected& q,
              const Projected& k,
              const Vector& v) override {
    auto& past = past_[head];
    past.emplace_back(k, v);
    double high = -1e300;
    for (const auto& [key, value] : past) high = std::max(high, MaxOf(key.u));
    Vector key_sum(options_.features, options_.eps);
    Vector o(v.size(), 0.0);
    const Vector query = Features(q, MaxOf(q.u));
    for (const auto& [key, value] : past) {
      const Vector features = Features(key, high);
      double weight = 0;
      for (size_t r = 0; r < features.size(); ++r) {
        key_sum[r] += features[r];
        weight += query[r] * features[r];
      }
      for (size_t j = 0; j < v.size(); ++j) o[j] += weight * value[j];
    }
    double divisor = 0;
    for (size_t r = 0; r < query.size(); ++r) divisor += query[r] * key_sum[r];
    for (double& value : o) value /= divisor;
    return o;
  }

 private:
  Vector Features(const Projected& x, double high) const {
    Vector features = x.u;
    const double m = static_cast<double>(options_.features);
    for (double& f : features) {
      f = options_.relu ? std::max(f, 0.0) + options_.feature_eps
                        : (std::exp(f - x.half - high) + options_.feature_eps) /
                              std::sqrt(m);
    }
    return features;
  }

  std::map<size_t, std::vector<std::pair<Projected, Vector>>> past_;
};

// The same by an online maximum, for streams that are too long for squares.
class Online final : public Base {
 public:
  using Base::Base;

 protected:
  Vector Head(size_t head,
              const Projected& q,
              const Projected& k,
              const Vector& v) override {
    State& s = states_[head];
    const size_t m = options_.features;
    s.sums.resize(m * v.size(), 0.0);
    s.keys.resize(m, 0.0);
    s.values.resize(v.size(), 0.0);
    const double eps = options_.relu ? 0 : options_.feature_eps;
    const double high = std::max(s.high, MaxOf(k.u));
    const double kept = options_.relu ? 1 : std::exp(s.high - high);
    s.high = high;
    s.count += 1;
    for (size_t j = 0; j < v.size(); ++j) s.values[j] += v[j];
    Vector o(v.size(), 0.0);
    double divisor = 0;
    double total = 0;
    for (size_t r = 0; r < m; ++r) {
      const double key = options_.relu
                             ? std::max(k.u[r], 0.0) + options_.feature_eps
                             : std::exp(k.u[r] - k.half - high);
      const double query =
          options_.relu
              ? std::max(q.u[r], 0.0) + options_.feature_eps
              : std::exp(q.u[r] - q.half - MaxOf(q.u)) + options_.feature_eps;
      const double floor =
          options_.relu ? options_.eps
                        : options_.eps * std::sqrt(static_cast<double>(m));
      s.keys[r] = kept * s.keys[r] + key;
      divisor += query * (s.keys[r] + eps * s.count + floor);
      total += query;
      for (size_t j = 0; j < v.size(); ++j) {
        double& sum = s.sums[r * v.size() + j];
        sum = kept * sum + key * v[j];
        o[j] += query * sum;
      }
    }
    for (size_t j = 0; j < v.size(); ++j) {
      o[j] = (o[j] + eps * total * s.values[j]) / divisor;
    }
    return o;
  }

 private:
  struct State {
    double high = -1e300;
    double count = 0;
    Vector sums;
    Vector keys;
    Vector values;
  };
  std::map<size_t, State> states_;
};

json Relu() {
  json config = Config();
  config["kernel"] = "relu";
  return config;
}

json ReluOfHeads() {
  json config = Relu();
  config.update({{"shared_features", false},
                 {"normalize_data", false},
                 {"normalizer_eps", 0.1}});
  return config;
}

template <typename Reference>
std::vector<Formula> Formulas() {
  return FormulasOf<Reference>(
      Config(),
      {{"as_by_default"},
       {"of_heads",
        {{"shared_features", false}, {"qkv_bias", true}, {"out_bias", true}}},
       {"wide",
        {{"head_dim", 16},
         {"value_dim", 32},
         {"num_features", 64},
         {"feature_eps", 0.01},
         {"normalizer_eps", 1e-3}}},
       {"relu", Relu()},
       {"relu_of_heads", ReluOfHeads()}});
}

// Against the published formula on every prefix.
INSTANTIATE_TEST_SUITE_P(Performer,
                         FormulaTest,
                         testing::ValuesIn(Formulas<Published>()),
                         FormulaName);

// In fp64 alone: what the server computes is the published formula on every
// prefix, for keys whose maximum rises and falls.
TEST(PerformerTest, AnOnlineMaximumIsThePublishedFormulaOnEveryPrefix) {
  for (const Formula& formula : Formulas<Published>()) {
    SCOPED_TRACE(formula.name);
    const FormulaCase mixer(formula);
    std::vector<float> x = mixer.Input(60);
    for (size_t i = 0; i < x.size(); ++i) {
      const size_t token = i / 24;
      x[i] *= 1 + 2 * std::sin(static_cast<float>(token) / 5);
    }
    Published published(formula.config, mixer.layer());
    Online online(formula.config, mixer.layer());
    for (size_t at = 0; at < x.size(); at += 24) {
      const Vector token(x.begin() + static_cast<int64_t>(at),
                         x.begin() + static_cast<int64_t>(at + 24));
      const Vector want = published.Step(token);
      const Vector got = online.Step(token);
      for (size_t i = 0; i < want.size(); ++i) {
        ASSERT_NEAR(got[i], want[i], 1e-13) << "token " << at / 24;
      }
    }
  }
}

TEST(PerformerTest, HoldsOverALongStream) {
  for (const json& config : {Config(), Relu()}) {
    SCOPED_TRACE(config.dump());
    ExpectLongStream(FormulaOf<Online>("", config), 0);
  }
}

TEST(PerformerTest, HoldsOverOneTokenAgainAndAgain) {
  for (const json& config : {Config(), Relu()}) {
    SCOPED_TRACE(config.dump());
    ExpectLongStream(FormulaOf<Online>("", config), 1);
  }
}

// Keys a hundred times as long: e^u alone would overflow fp32 by far.
TEST(PerformerTest, KeysOfAnyLengthStayFinite) {
  FormulaCase mixer(FormulaOf<Online>("", Config()));
  std::vector<float> x = mixer.Input(100);
  for (size_t i = 0; i < x.size() / 2; ++i) x[i] *= 100;
  for (const Form form : {Form::kRecurrent, Form::kChunk}) {
    const int32_t slot = mixer.NewSlot();
    for (const float y : mixer.Feed(slot, x, 100, form)) {
      ASSERT_TRUE(std::isfinite(y));
    }
  }
}

// The features estimate e^(q.k / sqrt d) without bias, which is what makes them
// the softmax's: over many rows of W the mean comes near.
TEST(PerformerTest, FavorFeaturesEstimateTheSoftmaxKernel) {
  constexpr size_t kDim = 8;
  constexpr size_t kRows = 200'000;
  std::mt19937_64 random(20261124);
  std::normal_distribution<double> normal;
  Vector q(kDim), k(kDim);
  for (double& value : q) value = 0.7 * normal(random);
  for (double& value : k) value = 0.7 * normal(random);
  const double c = std::pow(static_cast<double>(kDim), -0.25);
  double half = 0;
  double dot = 0;
  for (size_t i = 0; i < kDim; ++i) {
    half += c * c * (q[i] * q[i] + k[i] * k[i]) / 2;
    dot += c * c * q[i] * k[i];
  }
  double sum = 0;
  for (size_t r = 0; r < kRows; ++r) {
    double u = 0;
    for (size_t i = 0; i < kDim; ++i) u += c * normal(random) * (q[i] + k[i]);
    sum += std::exp(u - half);
  }
  EXPECT_NEAR(sum / kRows / std::exp(dot), 1, 0.02);
}

TEST(ParseConfigTest, ReadsTheOptionsOfThePerformer) {
  const PerformerShape shape = ShapeOf<Performer>(Config());
  EXPECT_EQ(shape.kernel, PerformerKernel::kFavor);
  EXPECT_EQ(shape.features, 30);
  EXPECT_TRUE(shape.shared_features);
  EXPECT_TRUE(shape.scaled);
  EXPECT_EQ(shape.feature_eps, 1e-4F);
  EXPECT_EQ(shape.eps, 1e-6F);

  const PerformerShape other = ShapeOf<Performer>(ReluOfHeads());
  EXPECT_EQ(other.kernel, PerformerKernel::kRelu);
  EXPECT_FALSE(other.shared_features);
  EXPECT_FALSE(other.scaled);
  EXPECT_EQ(other.feature_eps, 1e-3F);
  EXPECT_EQ(other.eps, 0.1F);
}

TEST(ParseConfigTest, RefusesPerformerValuesOutOfRangeByTheirKey) {
  ExpectRefused(Config(),
                {
                    {"kernel", "\"cosine\""},
                    {"kernel", "1"},
                    {"num_features", "0"},
                    {"num_features", "4097"},
                    {"num_features", "null"},
                    {"shared_features", "\"yes\""},
                    {"normalize_data", "1"},
                    {"feature_eps", "0"},
                    {"feature_eps", "2"},
                    {"normalizer_eps", "0"},
                    {"normalizer_eps", "NaN"},
                    {"generalized_attention", "true"},
                },
                {kBadFlaDecoder, kBadPlainQkv});
}

}  // namespace
}  // namespace weir::engine
