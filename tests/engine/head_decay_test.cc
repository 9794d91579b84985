// SPDX-License-Identifier: Apache-2.0
//
// weir_simple_gla and weir_lightning, one decay a head and no correction,
// against their formulas in fp64.
#include <cmath>
#include <string>
#include <vector>

#include "gtest/gtest.h"
#include "nlohmann/json.hpp"
#include "tests/engine/formula_case.h"

namespace weir::engine {
namespace {

using nlohmann::json;

constexpr size_t kHeads = 3;

json SimpleGlaConfig() {
  return SmallDecoder("weir_simple_gla",
                      {{"num_heads", kHeads},
                       {"expand_k", 1},
                       {"expand_v", 1},
                       {"use_short_conv", true},
                       {"conv_size", 3},
                       {"conv_bias", false},
                       {"gate_fn", "swish"},
                       {"fuse_norm", true},
                       {"gate_logit_normalizer", 16}});
}

class SimpleGlaReference : public ReferenceMixer {
 public:
  SimpleGlaReference(const json& config, const ReferenceLayer& layer)
      : layer_(layer),
        sizes_(config),
        gate_(config.at("gate_fn").get<std::string>()),
        fused_(gate_ == "swish" && config.at("fuse_norm").get<bool>()),
        normalizer_(config.at("gate_logit_normalizer").get<double>()),
        qkv_(config, layer),
        states_(kHeads, DenseState(sizes_.key_dim, sizes_.value_dim)) {}

  Vector Step(const Vector& x) override {
    const ReferenceQkv::Heads now = qkv_.Step(x);
    const Vector gk = layer_.Project("gk_proj", kHeads, x);
    std::vector<Vector> o;
    for (size_t h = 0; h < kHeads; ++h) {
      const double decay = std::exp(-Softplus(-gk[h]) / normalizer_);
      const Vector q =
          Scaled(now.q[h], 1 / std::sqrt(static_cast<double>(sizes_.key_dim)));
      o.push_back(layer_.RmsNorm(fused_ ? "g_norm_swish_gate" : "g_norm",
                                 1e-5,
                                 Readout(h, decay, q, now.k[h], now.v[h])));
    }
    const Vector out = Joined(o);
    const Vector g = Each(gate_ == "sigmoid" ? Sigmoid : Silu,
                          layer_.Project("g_proj", out.size(), x));
    return layer_.Project("o_proj", x.size(), Times(out, g));
  }

 protected:
  // S <- d S + k v^T;  o = S^T q
  virtual Vector Readout(size_t head,
                         double decay,
                         const Vector& q,
                         const Vector& k,
                         const Vector& v) {
    DenseState& state = states_[head];
    state.Decay(Vector(k.size(), decay));
    state.Write(k, v);
    return state.Read(q);
  }

 private:
  const ReferenceLayer layer_;
  const HeadSizes sizes_;
  const std::string gate_;
  const bool fused_;
  const double normalizer_;
  ReferenceQkv qkv_;
  std::vector<DenseState> states_;
};

INSTANTIATE_TEST_SUITE_P(
    SimpleGla,
    FormulaTest,
    testing::ValuesIn(FormulasOf<SimpleGlaReference>(
        SimpleGlaConfig(),
        {{"as_by_default"},
         {"wide_values", {{"expand_k", 0.5}, {"expand_v", 2}}},
         {"no_convolution", {{"use_short_conv", false}}},
         {"convolution_with_bias", {{"conv_bias", true}}},
         {"sigmoid_gate", {{"gate_fn", "sigmoid"}}},
         {"silu_gate", {{"gate_fn", "silu"}}},
         {"norm_apart", {{"fuse_norm", false}}},
         {"strong_decay", {{"gate_logit_normalizer", 0.25}}}})),
    FormulaName);

double Gamma(size_t head) {
  return 1 - std::exp2(-5 - static_cast<double>(head));
}

// With decays that heed no token it is RetNet's retention before the rotation:
// in its parallel form o_t is the sum of gamma^(t-s) (q_t . k_s) v_s.
class RetentionReference final : public SimpleGlaReference {
 public:
  using SimpleGlaReference::SimpleGlaReference;

 private:
  struct Written {
    Vector k;
    Vector v;
  };

  Vector Readout(size_t head,
                 double /*decay*/,
                 const Vector& q,
                 const Vector& k,
                 const Vector& v) override {
    std::vector<Written>& past = past_[head];
    past.push_back({k, v});
    Vector o(v.size(), 0.0);
    for (size_t s = 0; s < past.size(); ++s) {
      const double kept =
          std::pow(Gamma(head), static_cast<double>(past.size() - 1 - s));
      o = Plus(o, Scaled(past[s].v, kept * Dot(q, past[s].k)));
    }
    return o;
  }

  std::vector<Written> past_[kHeads];
};

// The gate's power of 1/16 makes of it gamma.
void HoldDecays(const std::string& name, std::vector<float>& values) {
  if (name.ends_with("gk_proj.weight")) values.assign(values.size(), 0);
  if (!name.ends_with("gk_proj.bias")) return;
  for (size_t h = 0; h < values.size(); ++h) {
    const double gate = std::pow(Gamma(h), 16);
    values[h] = static_cast<float>(std::log(gate / (1 - gate)));
  }
}

INSTANTIATE_TEST_SUITE_P(ConstantGatesMakeSimpleGlaRetention,
                         FormulaTest,
                         testing::Values(FormulaOf<RetentionReference>(
                             "retention", SimpleGlaConfig(), HoldDecays)),
                         FormulaName);

class LightningReference final : public ReferenceMixer {
 public:
  LightningReference(const json& config, const ReferenceLayer& layer)
      : layer_(layer),
        layers_(config.at("num_hidden_layers").get<double>()),
        dim_(HeadSizes(config).key_dim),
        fla_(config.value("slopes", "minimax") == "fla"),
        states_(kHeads, DenseState(dim_, dim_)) {}

  // qkv of a head are three heads next to each other.
  Vector Step(const Vector& x) override {
    const size_t width = kHeads * dim_;
    const auto qkv = HeadsOf(
        Each(Silu, layer_.Project("qkv_proj", 3 * width, x)), 3 * kHeads, dim_);
    std::vector<Vector> o;
    for (size_t h = 0; h < kHeads; ++h) {
      DenseState& state = states_[h];
      state.Decay(Vector(dim_, Decay(static_cast<double>(h))));
      state.Write(qkv[3 * h + 1], qkv[3 * h + 2]);
      const Vector read = state.Read(qkv[3 * h]);
      o.push_back(fla_ ? Scaled(read, 1 / std::sqrt(static_cast<double>(dim_)))
                       : read);
    }
    const Vector gate = Each(Sigmoid, layer_.Project("output_gate", width, x));
    return layer_.Project("out_proj",
                          x.size(),
                          Times(layer_.RmsNorm("norm", 1e-6, Joined(o)), gate));
  }

 private:
  double Decay(double head) const {
    const double layer = layer_.index();
    if (fla_) return std::exp(-8.0 * head / kHeads * (1 - layer / layers_));
    const double rest = 1 - layer / (layers_ - 1 + 1e-5) + 1e-5;
    return std::exp(-std::pow(std::pow(2, 8.0 / kHeads), -(head + 1)) * rest);
  }

  const ReferenceLayer layer_;
  const double layers_;
  const size_t dim_;
  const bool fla_;
  std::vector<DenseState> states_;
};

INSTANTIATE_TEST_SUITE_P(
    Lightning,
    FormulaTest,
    testing::ValuesIn(FormulasOf<LightningReference>(
        SmallDecoder("weir_lightning", {{"num_heads", kHeads}}),
        {{"as_by_default"},
         {"minimax_by_name", {{"slopes", "minimax"}, {"head_dim", 12}}},
         {"fla", {{"slopes", "fla"}}},
         {"fla_wide_heads", {{"slopes", "fla"}, {"head_dim", 20}}}})),
    FormulaName);

}  // namespace
}  // namespace weir::engine
