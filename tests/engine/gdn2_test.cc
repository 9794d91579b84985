// SPDX-License-Identifier: Apache-2.0
//
// weir_gdn2 against its formula in fp64, and its identity with KDA.
#include <cmath>
#include <cstdint>
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
  return SmallDecoder("weir_gdn2",
                      {{"num_heads", 2},
                       {"num_v_heads", 2},
                       {"head_dim", 12},
                       {"expand_v", 1.0},
                       {"use_short_conv", true},
                       {"conv_size", 3},
                       {"conv_bias", false},
                       {"allow_neg_eigval", false}});
}

class Reference final : public ReferenceMixer {
 public:
  Reference(const json& config, const ReferenceLayer& layer)
      : layer_(layer),
        sizes_(config),
        erase_(config.at("allow_neg_eigval").get<bool>() ? 2 : 1),
        qkv_(config, layer, {.always_silu = true}),
        states_(sizes_.heads, DenseState(sizes_.key_dim, sizes_.value_dim)) {}

  // S <- Diag(d) S;  S <- S + k (w * v - S^T (b * k))^T;  o = S^T q
  Vector Step(const Vector& x) override {
    const auto [q, k, v] = qkv_.Step(x);
    const auto d = Keys(Decays(x));
    const auto b = Keys(Each(Sigmoid, layer_.Project("b_proj", keys(), x)));
    const auto w = HeadsOf(Each(Sigmoid, layer_.Project("w_proj", values(), x)),
                           sizes_.heads,
                           sizes_.value_dim);
    std::vector<Vector> o;
    for (size_t h = 0; h < sizes_.heads; ++h) {
      const size_t key_head = sizes_.KeyHead(h);
      DenseState& state = states_[h];
      state.Decay(d[key_head]);
      const Vector key = UnitLength(k[key_head]);
      const Vector erased = Scaled(Times(b[key_head], key), erase_);
      state.Write(key, Plus(Times(w[h], v[h]), Scaled(state.Read(erased), -1)));
      const Vector read = state.Read(UnitLength(q[key_head]));
      const double scale = 1 / std::sqrt(static_cast<double>(sizes_.key_dim));
      o.push_back(layer_.RmsNorm("o_norm", 1e-5, Scaled(read, scale)));
    }
    return layer_.Project(
        "o_proj",
        x.size(),
        Times(Joined(o), Each(Sigmoid, LowRank("g_proj", values(), x))));
  }

 private:
  size_t keys() const { return sizes_.key_heads * sizes_.key_dim; }
  size_t values() const { return sizes_.heads * sizes_.value_dim; }

  std::vector<Vector> Keys(const Vector& x) const {
    return HeadsOf(x, sizes_.key_heads, sizes_.key_dim);
  }

  Vector LowRank(const std::string& name, size_t rows, const Vector& x) const {
    return layer_.Project(
        name + ".1", rows, layer_.Project(name + ".0", sizes_.value_dim, x));
  }

  Vector Decays(const Vector& x) const {
    const auto& a_log = layer_.Get("A_log", {sizes_.key_heads});
    const auto& dt_bias = layer_.Get("dt_bias", {keys()});
    Vector d = LowRank("f_proj", keys(), x);
    for (size_t i = 0; i < d.size(); ++i) {
      d[i] = std::exp(-std::exp(a_log[i / sizes_.key_dim]) *
                      Softplus(d[i] + dt_bias[i]));
    }
    return d;
  }

  const ReferenceLayer layer_;
  const HeadSizes sizes_;
  const double erase_;
  ReferenceQkv qkv_;
  std::vector<DenseState> states_;
};

// About e^-3 a token, where it is about e^-0.1 otherwise.
void DecayStrongly(const std::string& name, std::vector<float>& values) {
  if (!name.ends_with("dt_bias")) return;
  for (float& value : values) value += 5;
}

INSTANTIATE_TEST_SUITE_P(Gdn2,
                         FormulaTest,
                         testing::ValuesIn(FormulasOf<Reference>(
                             Config(),
                             {{"as_by_default"},
                              {"grouped_values", {{"num_v_heads", 6}}},
                              {"wide_values", {{"expand_v", 2}}},
                              {"no_convolution", {{"use_short_conv", false}}},
                              {"convolution_with_bias", {{"conv_bias", true}}},
                              {"strong_decay", json::object(), DecayStrongly},
                              {"negative_eigenvalues",
                               {{"allow_neg_eigval", true}}},
                              {"most_at_once",
                               {{"num_heads", 1},
                                {"num_v_heads", 3},
                                {"expand_v", 0.75},
                                {"use_short_conv", false},
                                {"allow_neg_eigval", true}}}})),
                         FormulaName);

// Each row of a tensor `times` over, one after the other.
void RepeatRows(TensorFile& file,
                const std::string& from,
                const std::string& to,
                int64_t times) {
  const std::vector<int64_t> shape = file.tensors.at(from).shape;
  const std::vector<float> rows = file.Floats(from);
  std::vector<float> repeated;
  for (int64_t row = 0; row < shape[0]; ++row) {
    for (int64_t i = 0; i < times; ++i) {
      repeated.insert(repeated.end(),
                      rows.begin() + row * shape[1],
                      rows.begin() + (row + 1) * shape[1]);
    }
  }
  file.Add(to, {shape[0] * times, shape[1]}, repeated);
}

TEST(Gdn2IdentityTest, OneGateForAllChannelsIsKda) {
  ModelCopy copy("tests/golden/fla_kda");
  copy.config["model_type"] = "weir_gdn2";
  copy.config.erase("lower_bound");
  copy.config.erase("safe_gate");
  const int64_t key_dim = copy.config.at("head_dim");
  const auto value_dim = static_cast<int64_t>(
      static_cast<double>(key_dim) * copy.config.at("expand_v").get<double>());
  for (const char* layer : {"0", "1"}) {
    const std::string attn = "model.layers." + std::string(layer) + ".attn.";
    const std::string beta = attn + "b_proj.weight";
    RepeatRows(copy.weights, beta, attn + "w_proj.weight", value_dim);
    RepeatRows(copy.weights, beta, beta, key_dim);
  }
  copy.Write();

  ExpectSameScores(copy.path(), SourcePath("tests/golden/fla_kda"), 5e-5);
}

}  // namespace
}  // namespace weir::engine
