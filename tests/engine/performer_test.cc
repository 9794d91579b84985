// SPDX-License-Identifier: Apache-2.0
//
// The Performer's attention against its published formula in fp64: for each
// token that of the prefix which ends there, with the maximum over that prefix.
#include "engine/mixers/performer.h"

#include <algorithm>
#include <cmath>
#include <map>
#include <memory>
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
  return {{"model_type", "weir_performer"},
          {"hidden_size", 24},
          {"num_hidden_layers", 2},
          {"vocab_size", 50},
          {"intermediate_size", 40},
          {"norm_eps", 1e-5},
          {"num_heads", 2},
          {"num_features", 30}};
}

struct Options {
  explicit Options(const json& config)
      : heads(config.at("num_heads").get<size_t>()),
        features(config.at("num_features").get<size_t>()),
        relu(config.value("kernel", "favor") == "relu"),
        shared(config.value("shared_features", true)),
        scaled(config.value("normalize_data", true)),
        feature_eps(config.value("feature_eps", relu ? 1e-3 : 1e-4)),
        eps(config.value("normalizer_eps", 1e-6)) {}

  size_t heads;
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
  Base(const json& config, const ReferenceWeights& weights, std::string prefix)
      : options_(config), weights_(weights), prefix_(std::move(prefix)) {}

  Vector Step(const Vector& x) override {
    const Vector q = weights_.Project(prefix_ + "q_proj", x);
    const Vector k = weights_.Project(prefix_ + "k_proj", x);
    const Vector v = weights_.Project(prefix_ + "v_proj", x);
    const size_t values = v.size() / options_.heads;
    Vector o;
    for (size_t h = 0; h < options_.heads; ++h) {
      const auto at = v.begin() + static_cast<int64_t>(h * values);
      const Vector head = Head(h,
                               Project(h, q),
                               Project(h, k),
                               Vector(at, at + static_cast<int64_t>(values)));
      o.insert(o.end(), head.begin(), head.end());
    }
    return weights_.Project(prefix_ + "o_proj", o);
  }

 protected:
  virtual Vector Head(size_t head,
                      const Projected& q,
                      const Projected& k,
                      const Vector& v) = 0;

  Projected Project(size_t head, const Vector& x) const {
    const auto& matrix = weights_[prefix_ + "projection_matrix"];
    const size_t dim = x.size() / options_.heads;
    const double c =
        options_.scaled ? std::pow(static_cast<double>(dim), -0.25) : 1;
    const size_t first = options_.shared ? 0 : head * options_.features * dim;
    Projected out;
    out.u.resize(options_.features, 0.0);
    for (size_t i = 0; i < dim; ++i) {
      const double value = c * x[head * dim + i];
      out.half += value * value / 2;
      for (size_t r = 0; r < options_.features; ++r) {
        out.u[r] += matrix[first + r * dim + i] * value;
      }
    }
    return out;
  }

  const Options options_;

 private:
  const ReferenceWeights& weights_;
  const std::string prefix_;
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

template <typename Reference>
MakeReference ReferenceOf(const json& config) {
  return [config](const ReferenceWeights& weights, const std::string& prefix) {
    return std::make_unique<Reference>(config, weights, prefix);
  };
}

json Relu() {
  json config = Config();
  config["kernel"] = "relu";
  return config;
}

std::vector<json> Variants() {
  json of_heads = Config();
  of_heads["shared_features"] = false;
  of_heads["qkv_bias"] = true;
  of_heads["out_bias"] = true;
  json wide = Config();
  wide["head_dim"] = 16;
  wide["value_dim"] = 32;
  wide["num_features"] = 64;
  wide["feature_eps"] = 0.01;
  wide["normalizer_eps"] = 1e-3;
  json relu_of_heads = Relu();
  relu_of_heads["shared_features"] = false;
  relu_of_heads["normalize_data"] = false;
  relu_of_heads["normalizer_eps"] = 0.1;
  return {Config(), of_heads, wide, Relu(), relu_of_heads};
}

// In fp64 alone: what the server computes is the published formula on every
// prefix, for keys whose maximum rises and falls.
TEST(PerformerTest, AnOnlineMaximumIsThePublishedFormulaOnEveryPrefix) {
  for (const json& config : Variants()) {
    SCOPED_TRACE(config.dump());
    const MixerCase mixer(config, 7);
    std::vector<float> x = mixer.Input(60);
    for (size_t i = 0; i < x.size(); ++i) {
      const size_t token = i / 24;
      x[i] *= 1 + 2 * std::sin(static_cast<float>(token) / 5);
    }
    Published published(config, mixer.weights(), "");
    Online online(config, mixer.weights(), "");
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

TEST(PerformerTest, IsThePublishedFormulaOnEveryPrefix) {
  for (const json& config : Variants()) {
    SCOPED_TRACE(config.dump());
    ExpectMixer(config, ReferenceOf<Published>(config));
  }
}

TEST(PerformerTest, ScoresAreThoseOfTheFormula) {
  for (const json& config : Variants()) {
    SCOPED_TRACE(config.dump());
    ExpectScores(config, ReferenceOf<Published>(config));
  }
}

TEST(PerformerTest, HoldsOverALongStream) {
  for (const json& config : {Config(), Relu()}) {
    SCOPED_TRACE(config.dump());
    ExpectLongStream(config, ReferenceOf<Online>(config), 0);
  }
}

TEST(PerformerTest, HoldsOverOneTokenAgainAndAgain) {
  for (const json& config : {Config(), Relu()}) {
    SCOPED_TRACE(config.dump());
    ExpectLongStream(config, ReferenceOf<Online>(config), 1);
  }
}

// Keys a hundred times as long: e^u alone would overflow fp32 by far.
TEST(PerformerTest, KeysOfAnyLengthStayFinite) {
  MixerCase mixer(Config(), 7);
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
  const auto plain = Parse(Config());
  ASSERT_TRUE(plain.ok()) << plain.status();
  const PerformerShape shape = As<Performer>(LayerOf(*plain)[0]).shape();
  EXPECT_EQ(shape.kernel, PerformerKernel::kFavor);
  EXPECT_EQ(shape.features, 30);
  EXPECT_TRUE(shape.shared_features);
  EXPECT_TRUE(shape.scaled);
  EXPECT_EQ(shape.feature_eps, 1e-4F);
  EXPECT_EQ(shape.eps, 1e-6F);

  const auto relu = Parse(Variants()[4]);
  ASSERT_TRUE(relu.ok()) << relu.status();
  const PerformerShape other = As<Performer>(LayerOf(*relu)[0]).shape();
  EXPECT_EQ(other.kernel, PerformerKernel::kRelu);
  EXPECT_FALSE(other.shared_features);
  EXPECT_FALSE(other.scaled);
  EXPECT_EQ(other.feature_eps, 1e-3F);
  EXPECT_EQ(other.eps, 0.1F);
}

TEST(ParseConfigTest, RefusesPerformerValuesOutOfRangeByTheirKey) {
  ExpectRefused(Config(),
                {
                    {"num_heads", "0"},
                    {"num_heads", "5"},
                    {"head_dim", "0"},
                    {"value_dim", "1025"},
                    {"qkv_bias", "1"},
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
                });
}

}  // namespace
}  // namespace weir::engine
