// SPDX-License-Identifier: Apache-2.0
//
// weir_simple_gla and weir_lightning, one decay a head and no correction,
// against forward passes written anew from the published formulas.
#include <cmath>
#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "gtest/gtest.h"
#include "nlohmann/json.hpp"
#include "tests/engine/fla_reference.h"

namespace weir::engine {
namespace {

using nlohmann::json;

constexpr int kHeads = 3;

struct GlaOptions {
  const char* name;
  double expand_k = 1;
  double expand_v = 1;
  bool conv = true;
  bool conv_bias = false;
  const char* gate = "swish";
  bool fused = true;
  double normalizer = 16;
};

class SimpleGlaReference : public FlaReference {
 public:
  explicit SimpleGlaReference(const GlaOptions& options)
      : options_(options),
        key_dim_(static_cast<int>(kHidden * options.expand_k / kHeads)),
        value_dim_(static_cast<int>(kHidden * options.expand_v / kHeads)) {}

 protected:
  // What of q, k and v reaches the recurrence of a head.
  struct Head {
    Vector q;
    Vector k;
    Vector v;
  };

  virtual void AddDecay(const std::string& attn) {
    Add(attn + "gk_proj.weight", {kHeads, kHidden}, 0.5F);
    Add(attn + "gk_proj.bias", {kHeads}, 1);
  }

  // S <- d S + k v^T;  o = S^T q
  virtual Vector Readout(const std::string& attn,
                         int head,
                         const Vector& x,
                         const Head& now) {
    const double gk = Multiply(attn + "gk_proj.weight", x)[head] +
                      T(attn + "gk_proj.bias")[head];
    const double decay = std::exp(-Softplus(-gk) / options_.normalizer);
    DenseState& state = State(attn + std::to_string(head));
    state.Decay(Vector(now.k.size(), decay), now.v.size());
    state.Write(now.k, now.v);
    return state.Read(now.q, now.v.size());
  }

 private:
  json MixerConfig() const override {
    return {{"model_type", "weir_simple_gla"},
            {"num_heads", kHeads},
            {"expand_k", options_.expand_k},
            {"expand_v", options_.expand_v},
            {"use_short_conv", options_.conv},
            {"conv_size", kConvWidth},
            {"conv_bias", options_.conv_bias},
            {"gate_fn", options_.gate},
            {"fuse_norm", options_.fused},
            {"gate_logit_normalizer", options_.normalizer}};
  }

  std::string NormName() const {
    return options_.fused && std::string(options_.gate) == "swish"
               ? "g_norm_swish_gate.weight"
               : "g_norm.weight";
  }

  void AddMixer(const std::string& attn) override {
    const int values = kHeads * value_dim_;
    AddPart(attn, "q", kHeads * key_dim_, options_.conv, options_.conv_bias);
    AddPart(attn, "k", kHeads * key_dim_, options_.conv, options_.conv_bias);
    AddPart(attn, "v", values, options_.conv, options_.conv_bias);
    AddDecay(attn);
    Add(attn + "g_proj.weight", {values, kHidden}, 0.3F);
    Add(attn + NormName(), {value_dim_}, 0.1F, 1);
    Add(attn + "o_proj.weight", {kHidden, values}, 0.2F);
  }

  Vector Activated(const std::string& attn,
                   const std::string& part,
                   const Vector& x) {
    Vector y = Part(attn, part, x, options_.conv, options_.conv_bias);
    if (options_.conv) {
      for (double& value : y) value = Silu(value);
    }
    return y;
  }

  Vector Mix(int /*layer*/, const std::string& attn, const Vector& x) override {
    const Vector q = Activated(attn, "q", x);
    const Vector k = Activated(attn, "k", x);
    const Vector v = Activated(attn, "v", x);
    Vector out;
    for (int h = 0; h < kHeads; ++h) {
      Head now = {HeadOf(q, h, key_dim_),
                  HeadOf(k, h, key_dim_),
                  HeadOf(v, h, value_dim_)};
      for (double& value : now.q) value /= std::sqrt(double(key_dim_));
      const Vector normed =
          Norm(Readout(attn, h, x, now), attn + NormName(), kEps);
      out.insert(out.end(), normed.begin(), normed.end());
    }
    const Vector g = Multiply(attn + "g_proj.weight", x);
    const bool sigmoid = std::string(options_.gate) == "sigmoid";
    for (size_t i = 0; i < out.size(); ++i) {
      out[i] *= sigmoid ? Sigmoid(g[i]) : Silu(g[i]);
    }
    return Multiply(attn + "o_proj.weight", out);
  }

  const GlaOptions options_;
  const int key_dim_;
  const int value_dim_;
};

class SimpleGlaTest : public testing::TestWithParam<GlaOptions> {};

TEST_P(SimpleGlaTest, ScoresAreThoseOfTheFormulas) {
  SimpleGlaReference reference(GetParam());
  ExpectScoresOfTheFormulas(reference);
}

INSTANTIATE_TEST_SUITE_P(
    Options,
    SimpleGlaTest,
    testing::Values(
        GlaOptions{.name = "as_by_default"},
        GlaOptions{.name = "wide_values", .expand_k = 0.5, .expand_v = 2},
        GlaOptions{.name = "no_convolution", .conv = false},
        GlaOptions{.name = "convolution_with_bias", .conv_bias = true},
        GlaOptions{.name = "sigmoid_gate", .gate = "sigmoid"},
        GlaOptions{.name = "silu_gate", .gate = "silu"},
        GlaOptions{.name = "norm_apart", .fused = false},
        GlaOptions{.name = "strong_decay", .normalizer = 0.25}),
    [](const testing::TestParamInfo<GlaOptions>& info) {
      return std::string(info.param.name);
    });

// With decays that heed no token it is RetNet's retention before the rotation:
// in its parallel form o_t is the sum of gamma^(t-s) (q_t . k_s) v_s.
class RetentionReference final : public SimpleGlaReference {
 public:
  RetentionReference() : SimpleGlaReference({.name = ""}) {}

 private:
  static double Gamma(int head) { return 1 - std::exp2(-5 - head); }

  // The gate's power of 1/16 makes of it gamma.
  void AddDecay(const std::string& attn) override {
    Add(attn + "gk_proj.weight", {kHeads, kHidden}, 0);
    std::vector<float> bias;
    for (int h = 0; h < kHeads; ++h) {
      const double gate = std::pow(Gamma(h), 16);
      bias.push_back(static_cast<float>(std::log(gate / (1 - gate))));
    }
    Set(attn + "gk_proj.bias", {kHeads}, bias);
  }

  Vector Readout(const std::string& attn,
                 int head,
                 const Vector& /*x*/,
                 const Head& now) override {
    std::vector<Head>& past = past_[attn + std::to_string(head)];
    past.push_back(now);
    Vector o(now.v.size(), 0.0);
    for (size_t s = 0; s < past.size(); ++s) {
      double score =
          std::pow(Gamma(head), static_cast<double>(past.size() - 1 - s));
      double product = 0;
      for (size_t i = 0; i < now.q.size(); ++i) {
        product += now.q[i] * past[s].k[i];
      }
      score *= product;
      for (size_t j = 0; j < o.size(); ++j) o[j] += score * past[s].v[j];
    }
    return o;
  }

  std::map<std::string, std::vector<Head>> past_;
};

TEST(SimpleGlaIdentityTest, ConstantGatesMakeItRetention) {
  RetentionReference reference;
  ExpectScoresOfTheFormulas(reference);
}

struct LightningOptions {
  const char* name;
  const char* slopes = nullptr;  // by default
  int head_dim = 0;              // by default
};

class LightningReference final : public FlaReference {
 public:
  explicit LightningReference(const LightningOptions& options)
      : options_(options),
        dim_(options.head_dim == 0 ? kHidden / kHeads : options.head_dim) {}

 private:
  json MixerConfig() const override {
    json config = {{"model_type", "weir_lightning"}, {"num_heads", kHeads}};
    if (options_.slopes != nullptr) config["slopes"] = options_.slopes;
    if (options_.head_dim != 0) config["head_dim"] = options_.head_dim;
    return config;
  }

  void AddMixer(const std::string& attn) override {
    const int width = kHeads * dim_;
    Add(attn + "qkv_proj.weight", {3 * width, kHidden}, 0.3F);
    Add(attn + "output_gate.weight", {width, kHidden}, 0.3F);
    Add(attn + "norm.weight", {width}, 0.1F, 1);
    Add(attn + "out_proj.weight", {kHidden, width}, 0.2F);
  }

  bool IsFla() const {
    return options_.slopes != nullptr && std::string(options_.slopes) == "fla";
  }

  double Decay(int layer, int head) const {
    if (IsFla()) {
      return std::exp(-8.0 * head / kHeads * (1 - layer / double(kLayers)));
    }
    const double rest = 1 - layer / (kLayers - 1 + 1e-5) + 1e-5;
    return std::exp(-std::pow(std::pow(2, 8.0 / kHeads), -(head + 1)) * rest);
  }

  // qkv of a head are three heads next to each other.
  Vector Mix(int layer, const std::string& attn, const Vector& x) override {
    Vector qkv = Multiply(attn + "qkv_proj.weight", x);
    for (double& value : qkv) value = Silu(value);
    Vector all;
    for (int h = 0; h < kHeads; ++h) {
      Vector q = HeadOf(qkv, 3 * h, dim_);
      if (IsFla()) {
        for (double& value : q) value /= std::sqrt(double(dim_));
      }
      DenseState& state = State(attn + std::to_string(h));
      state.Decay(Vector(q.size(), Decay(layer, h)), q.size());
      state.Write(HeadOf(qkv, 3 * h + 1, dim_), HeadOf(qkv, 3 * h + 2, dim_));
      const Vector o = state.Read(q, q.size());
      all.insert(all.end(), o.begin(), o.end());
    }
    Vector out = Norm(all, attn + "norm.weight", 1e-6);
    const Vector gate = Multiply(attn + "output_gate.weight", x);
    for (size_t i = 0; i < out.size(); ++i) out[i] *= Sigmoid(gate[i]);
    return Multiply(attn + "out_proj.weight", out);
  }

  const LightningOptions options_;
  const int dim_;
};

class LightningTest : public testing::TestWithParam<LightningOptions> {};

TEST_P(LightningTest, ScoresAreThoseOfTheFormulas) {
  LightningReference reference(GetParam());
  ExpectScoresOfTheFormulas(reference);
}

INSTANTIATE_TEST_SUITE_P(
    Options,
    LightningTest,
    testing::Values(LightningOptions{.name = "as_by_default"},
                    LightningOptions{.name = "minimax_by_name",
                                     .slopes = "minimax",
                                     .head_dim = 12},
                    LightningOptions{.name = "fla", .slopes = "fla"},
                    LightningOptions{.name = "fla_wide_heads",
                                     .slopes = "fla",
                                     .head_dim = 20}),
    [](const testing::TestParamInfo<LightningOptions>& info) {
      return std::string(info.param.name);
    });

}  // namespace
}  // namespace weir::engine
