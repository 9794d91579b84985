// SPDX-License-Identifier: Apache-2.0
//
// Every option of the gated_deltaproduct format against a forward pass written
// anew from the published formulas, and its identity with Gated DeltaNet.
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
  int writes = 2;
  int heads = 2;
  int value_heads = 2;
  double expand_v = 2;
  bool decay = true;
  bool gate = true;
  bool conv = true;
  bool conv_bias = false;
  bool negative_eigenvalues = true;
};

class DeltaProductReference final : public FlaReference {
 public:
  explicit DeltaProductReference(const Options& options)
      : options_(options),
        value_dim_(static_cast<int>(kKeyDim * options.expand_v)),
        values_(options.value_heads * value_dim_) {}

 private:
  json MixerConfig() const override {
    return {{"model_type", "gated_deltaproduct"},
            {"num_householder", options_.writes},
            {"num_heads", options_.heads},
            {"num_v_heads", options_.value_heads},
            {"head_dim", kKeyDim},
            {"expand_v", options_.expand_v},
            {"use_forget_gate", options_.decay},
            {"use_output_gate", options_.gate},
            {"use_short_conv", options_.conv},
            {"conv_size", kConvWidth},
            {"conv_bias", options_.conv_bias},
            {"allow_neg_eigval", options_.negative_eigenvalues}};
  }

  void AddMixer(const std::string& attn) override {
    const int keys = options_.heads * kKeyDim;
    const bool conv = options_.conv;
    const bool bias = options_.conv_bias;
    AddPart(attn, "q", keys, conv, bias);
    AddPart(attn, "k", options_.writes * keys, conv, bias);
    AddPart(attn, "v", options_.writes * values_, conv, bias);
    Add(attn + "b_proj.weight",
        {options_.writes * options_.value_heads, kHidden},
        0.3F);
    if (options_.decay) {
      Add(attn + "a_proj.weight", {options_.value_heads, kHidden}, 0.3F);
      Add(attn + "A_log", {options_.value_heads}, 0.5F);
      Add(attn + "dt_bias", {options_.value_heads}, 1, -2);
    }
    if (options_.gate) Add(attn + "g_proj.weight", {values_, kHidden}, 0.3F);
    Add(attn + "o_norm.weight", {value_dim_}, 0.1F, 1);
    Add(attn + "o_proj.weight", {kHidden, values_}, 0.2F);
  }

  Vector Activated(const std::string& attn,
                   const std::string& part,
                   const Vector& x) {
    Vector y = Part(attn, part, x, options_.conv, options_.conv_bias);
    for (double& value : y) value = Silu(value);
    return y;
  }

  double DecayOf(const std::string& attn, const Vector& x, int head) const {
    if (!options_.decay) return 1;
    const double a = Multiply(attn + "a_proj.weight", x)[head];
    return std::exp(-std::exp(T(attn + "A_log")[head]) *
                    Softplus(a + T(attn + "dt_bias")[head]));
  }

  // S <- d S;  S <- S + k_j (beta_j (v_j - S^T k_j))^T for each j;  o = S^T q
  Vector Mix(int /*layer*/, const std::string& attn, const Vector& x) override {
    const Vector q = Activated(attn, "q", x);
    const Vector k = Activated(attn, "k", x);
    const Vector v = Activated(attn, "v", x);
    const Vector b = Multiply(attn + "b_proj.weight", x);
    Vector out;
    for (int h = 0; h < options_.value_heads; ++h) {
      const int key_head = h / (options_.value_heads / options_.heads);
      DenseState& state = State(attn + std::to_string(h));
      state.Decay(Vector(kKeyDim, DecayOf(attn, x, h)), value_dim_);
      for (int j = 0; j < options_.writes; ++j) {
        const Vector key =
            UnitLength(HeadOf(k, j * options_.heads + key_head, kKeyDim));
        Vector value = HeadOf(v, j * options_.value_heads + h, value_dim_);
        const double beta = Sigmoid(b[j * options_.value_heads + h]) *
                            (options_.negative_eigenvalues ? 2 : 1);
        const Vector read = state.Read(key, value.size());
        for (size_t i = 0; i < value.size(); ++i) {
          value[i] = beta * (value[i] - read[i]);
        }
        state.Write(key, value);
      }
      Vector query = UnitLength(HeadOf(q, key_head, kKeyDim));
      for (double& value : query) value /= std::sqrt(double{kKeyDim});
      const Vector normed =
          Norm(state.Read(query, value_dim_), attn + "o_norm.weight", kEps);
      out.insert(out.end(), normed.begin(), normed.end());
    }
    if (options_.gate) {
      const Vector g = Multiply(attn + "g_proj.weight", x);
      for (size_t i = 0; i < out.size(); ++i) out[i] *= Silu(g[i]);
    }
    return Multiply(attn + "o_proj.weight", out);
  }

  const Options options_;
  const int value_dim_;
  const int values_;
};

class GatedDeltaProductTest : public testing::TestWithParam<Options> {};

TEST_P(GatedDeltaProductTest, ScoresAreThoseOfTheFormulas) {
  DeltaProductReference reference(GetParam());
  ExpectScoresOfTheFormulas(reference);
}

INSTANTIATE_TEST_SUITE_P(
    Options,
    GatedDeltaProductTest,
    testing::Values(Options{.name = "two_writes"},
                    Options{.name = "one_write", .writes = 1},
                    Options{.name = "three_writes", .writes = 3},
                    Options{.name = "grouped_values", .value_heads = 6},
                    Options{.name = "narrow_values", .expand_v = 0.75},
                    Options{.name = "no_decay", .decay = false},
                    Options{.name = "no_gate", .gate = false},
                    Options{.name = "no_convolution", .conv = false},
                    Options{.name = "convolution_with_bias", .conv_bias = true},
                    Options{.name = "positive_eigenvalues",
                            .negative_eigenvalues = false},
                    Options{.name = "least_at_once",
                            .writes = 4,
                            .heads = 1,
                            .value_heads = 3,
                            .decay = false,
                            .gate = false,
                            .conv = false}),
    [](const testing::TestParamInfo<Options>& info) {
      return std::string(info.param.name);
    });

TEST(GatedDeltaProductIdentityTest, OneWriteIsGatedDeltaNet) {
  ModelCopy copy("tests/golden/fla_gated_deltanet");
  copy.config["model_type"] = "gated_deltaproduct";
  copy.config["num_householder"] = 1;
  copy.config["use_forget_gate"] = true;
  copy.config["use_output_gate"] = copy.config.at("use_gate");
  copy.config.erase("use_gate");
  copy.config.erase("output_gate_activation");
  copy.Write();

  for (const size_t piece : {200, 7}) {
    const std::vector<float> scores = ScoresOf(copy.path(), 259, 200, piece);

    ASSERT_EQ(scores.size(), 199U);
    EXPECT_EQ(
        scores,
        ScoresOf(
            SourcePath("tests/golden/fla_gated_deltanet"), 259, 200, piece));
  }
}

}  // namespace
}  // namespace weir::engine
