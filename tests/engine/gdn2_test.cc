// SPDX-License-Identifier: Apache-2.0
//
// weir_gdn2 against a forward pass written anew from the published formulas,
// and its identity with KDA.
#include <cmath>
#include <cstdint>
#include <string>
#include <vector>

#include "gtest/gtest.h"
#include "nlohmann/json.hpp"
#include "tests/engine/engine_driver.h"
#include "tests/engine/fla_reference.h"
#include "tests/engine/model_files.h"

namespace weir::engine {
namespace {

using nlohmann::json;

constexpr int kKeyDim = 12;

struct Options {
  const char* name;
  int heads = 2;
  int value_heads = 2;
  double expand_v = 1;
  bool conv = true;
  bool conv_bias = false;
  bool negative_eigenvalues = false;
  float decay_shift = -2;  // of dt_bias
};

class Gdn2Reference final : public FlaReference {
 public:
  explicit Gdn2Reference(const Options& options)
      : options_(options),
        value_dim_(static_cast<int>(kKeyDim * options.expand_v)) {}

 private:
  json MixerConfig() const override {
    return {{"model_type", "weir_gdn2"},
            {"num_heads", options_.heads},
            {"num_v_heads", options_.value_heads},
            {"head_dim", kKeyDim},
            {"expand_v", options_.expand_v},
            {"use_short_conv", options_.conv},
            {"conv_size", kConvWidth},
            {"conv_bias", options_.conv_bias},
            {"allow_neg_eigval", options_.negative_eigenvalues}};
  }

  void AddMixer(const std::string& attn) override {
    const int keys = options_.heads * kKeyDim;
    const int values = options_.value_heads * value_dim_;
    AddPart(attn, "q", keys, options_.conv, options_.conv_bias);
    AddPart(attn, "k", keys, options_.conv, options_.conv_bias);
    AddPart(attn, "v", values, options_.conv, options_.conv_bias);
    Add(attn + "f_proj.0.weight", {value_dim_, kHidden}, 0.3F);
    Add(attn + "f_proj.1.weight", {keys, value_dim_}, 0.3F);
    Add(attn + "g_proj.0.weight", {value_dim_, kHidden}, 0.3F);
    Add(attn + "g_proj.1.weight", {values, value_dim_}, 0.3F);
    Add(attn + "g_proj.1.bias", {values}, 0.3F);
    Add(attn + "b_proj.weight", {keys, kHidden}, 0.3F);
    Add(attn + "w_proj.weight", {values, kHidden}, 0.3F);
    Add(attn + "A_log", {options_.heads}, 0.5F);
    Add(attn + "dt_bias", {keys}, 1, options_.decay_shift);
    Add(attn + "o_norm.weight", {value_dim_}, 0.1F, 1);
    Add(attn + "o_proj.weight", {kHidden, values}, 0.2F);
  }

  Vector Activated(const std::string& attn,
                   const std::string& part,
                   const Vector& x) {
    Vector y = Part(attn, part, x, options_.conv, options_.conv_bias);
    for (double& value : y) value = Silu(value);
    return y;
  }

  Vector Decays(const std::string& attn, const Vector& x) const {
    Vector d = Multiply(attn + "f_proj.1.weight",
                        Multiply(attn + "f_proj.0.weight", x));
    for (size_t i = 0; i < d.size(); ++i) {
      d[i] = std::exp(-std::exp(T(attn + "A_log")[i / kKeyDim]) *
                      Softplus(d[i] + T(attn + "dt_bias")[i]));
    }
    return d;
  }

  Vector Gate(const std::string& name, const Vector& x) const {
    Vector y = Multiply(name, x);
    for (double& value : y) value = Sigmoid(value);
    return y;
  }

  // S <- Diag(d) S;  S <- S + k (w * v - S^T (b * k))^T;  o = S^T q
  Vector Mix(int /*layer*/, const std::string& attn, const Vector& x) override {
    const Vector q = Activated(attn, "q", x);
    const Vector k = Activated(attn, "k", x);
    const Vector v = Activated(attn, "v", x);
    const Vector d = Decays(attn, x);
    const Vector b = Gate(attn + "b_proj.weight", x);
    const Vector w = Gate(attn + "w_proj.weight", x);
    Vector out;
    for (int h = 0; h < options_.value_heads; ++h) {
      const int key_head = h / (options_.value_heads / options_.heads);
      const Vector key = UnitLength(HeadOf(k, key_head, kKeyDim));
      Vector erased = HeadOf(b, key_head, kKeyDim);
      for (size_t i = 0; i < erased.size(); ++i) {
        erased[i] *= key[i] * (options_.negative_eigenvalues ? 2 : 1);
      }
      DenseState& state = State(attn + std::to_string(h));
      state.Decay(HeadOf(d, key_head, kKeyDim), value_dim_);
      Vector value = HeadOf(v, h, value_dim_);
      const Vector write = HeadOf(w, h, value_dim_);
      const Vector read = state.Read(erased, value.size());
      for (size_t i = 0; i < value.size(); ++i) {
        value[i] = write[i] * value[i] - read[i];
      }
      state.Write(key, value);
      Vector query = UnitLength(HeadOf(q, key_head, kKeyDim));
      for (double& element : query) element /= std::sqrt(double{kKeyDim});
      const Vector normed =
          Norm(state.Read(query, value_dim_), attn + "o_norm.weight", kEps);
      out.insert(out.end(), normed.begin(), normed.end());
    }
    const Vector g = Multiply(attn + "g_proj.1.weight",
                              Multiply(attn + "g_proj.0.weight", x));
    for (size_t i = 0; i < out.size(); ++i) {
      out[i] *= Sigmoid(g[i] + T(attn + "g_proj.1.bias")[i]);
    }
    return Multiply(attn + "o_proj.weight", out);
  }

  const Options options_;
  const int value_dim_;
};

class Gdn2Test : public testing::TestWithParam<Options> {};

TEST_P(Gdn2Test, ScoresAreThoseOfTheFormulas) {
  Gdn2Reference reference(GetParam());
  ExpectScoresOfTheFormulas(reference);
}

INSTANTIATE_TEST_SUITE_P(
    Options,
    Gdn2Test,
    testing::Values(Options{.name = "as_by_default"},
                    Options{.name = "grouped_values", .value_heads = 6},
                    Options{.name = "wide_values", .expand_v = 2},
                    Options{.name = "no_convolution", .conv = false},
                    Options{.name = "convolution_with_bias", .conv_bias = true},
                    Options{.name = "strong_decay", .decay_shift = 3},
                    Options{.name = "negative_eigenvalues",
                            .negative_eigenvalues = true},
                    Options{.name = "most_at_once",
                            .heads = 1,
                            .value_heads = 3,
                            .expand_v = 0.75,
                            .conv = false,
                            .negative_eigenvalues = true}),
    [](const testing::TestParamInfo<Options>& info) {
      return std::string(info.param.name);
    });

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

  for (const size_t piece : {200, 7}) {
    const std::vector<float> scores = ScoresOf(copy.path(), 259, 200, piece);
    const std::vector<float> kda =
        ScoresOf(SourcePath("tests/golden/fla_kda"), 259, 200, piece);

    ASSERT_EQ(scores.size(), 199U);
    ASSERT_EQ(kda.size(), 199U);
    for (size_t i = 0; i < scores.size(); ++i) {
      ASSERT_NEAR(scores[i], kda[i], 5e-5) << "token " << i + 1;
    }
  }
}

}  // namespace
}  // namespace weir::engine
