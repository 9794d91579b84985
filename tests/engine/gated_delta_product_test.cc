// SPDX-License-Identifier: Apache-2.0
//
// Every option of the gated_deltaproduct format against its formula in fp64,
// and its identity with Gated DeltaNet.
#include <cmath>
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
  return SmallDecoder("gated_deltaproduct",
                      {{"num_heads", 2},
                       {"num_v_heads", 2},
                       {"head_dim", 12},
                       {"expand_v", 2.0},
                       {"num_householder", 2},
                       {"use_forget_gate", true},
                       {"use_output_gate", true},
                       {"use_short_conv", true},
                       {"conv_size", 3},
                       {"conv_bias", false},
                       {"allow_neg_eigval", true}});
}

class Reference final : public ReferenceMixer {
 public:
  Reference(const json& config, const ReferenceLayer& layer)
      : layer_(layer),
        sizes_(config),
        writes_(config.at("num_householder").get<size_t>()),
        decay_(config.at("use_forget_gate").get<bool>()),
        gate_(config.at("use_output_gate").get<bool>()),
        beta_(config.at("allow_neg_eigval").get<bool>() ? 2 : 1),
        qkv_(config, layer, {.writes = writes_, .always_silu = true}),
        states_(sizes_.heads, DenseState(sizes_.key_dim, sizes_.value_dim)) {}

  // S <- d S;  S <- S + k_j (beta_j (v_j - S^T k_j))^T for each j;  o = S^T q
  Vector Step(const Vector& x) override {
    const auto [q, k, v] = qkv_.Step(x);
    const Vector d = Decays(x);
    const Vector b =
        Each(Sigmoid, layer_.Project("b_proj", writes_ * sizes_.heads, x));
    std::vector<Vector> o;
    for (size_t h = 0; h < sizes_.heads; ++h) {
      const size_t key_head = sizes_.KeyHead(h);
      DenseState& state = states_[h];
      state.Decay(Vector(sizes_.key_dim, d[h]));
      for (size_t j = 0; j < writes_; ++j) {
        const size_t value = j * sizes_.heads + h;
        const Vector key = UnitLength(k[j * sizes_.key_heads + key_head]);
        const Vector error = Plus(v[value], Scaled(state.Read(key), -1));
        state.Write(key, Scaled(error, beta_ * b[value]));
      }
      const Vector read = state.Read(UnitLength(q[key_head]));
      const double scale = 1 / std::sqrt(static_cast<double>(sizes_.key_dim));
      o.push_back(layer_.RmsNorm("o_norm", 1e-5, Scaled(read, scale)));
    }
    Vector out = Joined(o);
    if (gate_) {
      out = Times(out, Each(Silu, layer_.Project("g_proj", out.size(), x)));
    }
    return layer_.Project("o_proj", x.size(), out);
  }

 private:
  Vector Decays(const Vector& x) const {
    if (!decay_) return Vector(sizes_.heads, 1.0);
    const auto& a_log = layer_.Get("A_log", {sizes_.heads});
    const auto& dt_bias = layer_.Get("dt_bias", {sizes_.heads});
    Vector d = layer_.Project("a_proj", sizes_.heads, x);
    for (size_t h = 0; h < d.size(); ++h) {
      d[h] = std::exp(-std::exp(a_log[h]) * Softplus(d[h] + dt_bias[h]));
    }
    return d;
  }

  const ReferenceLayer layer_;
  const HeadSizes sizes_;
  const size_t writes_;
  const bool decay_;
  const bool gate_;
  const double beta_;
  ReferenceQkv qkv_;
  std::vector<DenseState> states_;
};

INSTANTIATE_TEST_SUITE_P(GatedDeltaProduct,
                         FormulaTest,
                         testing::ValuesIn(FormulasOf<Reference>(
                             Config(),
                             {{"two_writes"},
                              {"one_write", {{"num_householder", 1}}},
                              {"three_writes", {{"num_householder", 3}}},
                              {"grouped_values", {{"num_v_heads", 6}}},
                              {"narrow_values", {{"expand_v", 0.75}}},
                              {"no_decay", {{"use_forget_gate", false}}},
                              {"no_gate", {{"use_output_gate", false}}},
                              {"no_convolution", {{"use_short_conv", false}}},
                              {"convolution_with_bias", {{"conv_bias", true}}},
                              {"positive_eigenvalues",
                               {{"allow_neg_eigval", false}}},
                              {"least_at_once",
                               {{"num_householder", 4},
                                {"num_heads", 1},
                                {"num_v_heads", 3},
                                {"use_forget_gate", false},
                                {"use_output_gate", false},
                                {"use_short_conv", false}}}})),
                         FormulaName);

TEST(GatedDeltaProductIdentityTest, OneWriteIsGatedDeltaNet) {
  ModelCopy copy("tests/golden/fla_gated_deltanet");
  copy.config["model_type"] = "gated_deltaproduct";
  copy.config["num_householder"] = 1;
  copy.config["use_forget_gate"] = true;
  copy.config["use_output_gate"] = copy.config.at("use_gate");
  copy.config.erase("use_gate");
  copy.config.erase("output_gate_activation");
  copy.Write();

  ExpectSameScores(
      copy.path(), SourcePath("tests/golden/fla_gated_deltanet"), 0);
}

}  // namespace
}  // namespace weir::engine
