// SPDX-License-Identifier: Apache-2.0
//
// Every option of the gated_deltanet format against a forward pass written
// anew, in fp64 and token by token, from the published formulas.
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <map>
#include <memory>
#include <random>
#include <string>
#include <vector>

#include "gtest/gtest.h"
#include "nlohmann/json.hpp"
#include "tests/engine/engine_driver.h"
#include "tests/engine/model_files.h"

namespace weir::engine {
namespace {

using nlohmann::json;
using Vector = std::vector<double>;

constexpr uint64_t kSeed = 20261124;
constexpr int kHidden = 24;
constexpr int kIntermediate = 40;
constexpr int kVocabulary = 50;
constexpr int kKeyDim = 12;
constexpr int kConvWidth = 3;
constexpr double kEps = 1e-5;

struct Options {
  const char* name;
  int heads = 2;
  int value_heads = 2;
  double expand_v = 2;
  bool gate = true;
  const char* activation = "swish";
  bool conv = true;
  bool conv_bias = false;
  bool negative_eigenvalues = false;
  bool tied = false;
};

double Sigmoid(double x) { return 1 / (1 + std::exp(-x)); }
double Silu(double x) { return x * Sigmoid(x); }

// The model as files and, beside it, as the formulas have it.
class Reference {
 public:
  explicit Reference(const Options& options)
      : options_(options),
        keys_(options.heads * kKeyDim),
        value_dim_(static_cast<int>(kKeyDim * options.expand_v)),
        values_(options.value_heads * value_dim_) {
    std::mt19937_64 random(kSeed);
    std::normal_distribution<float> normal(0, 1);
    const auto add = [&](const std::string& name,
                         const std::vector<int64_t>& shape,
                         float scale,
                         float shift = 0) {
      int64_t count = 1;
      for (const int64_t extent : shape) count *= extent;
      std::vector<float> values(static_cast<size_t>(count));
      for (float& value : values) value = shift + scale * normal(random);
      files_.Add(name, shape, values);
      tensors_[name] = values;
    };
    add("model.embeddings.weight", {kVocabulary, kHidden}, 1);
    for (int layer = 0; layer < 2; ++layer) AddLayer(layer, add);
    add("model.norm.weight", {kHidden}, 0.1f, 1);
    if (!options.tied) add("lm_head.weight", {kVocabulary, kHidden}, 0.4f);
  }

  json Config() const {
    return {{"model_type", "gated_deltanet"},
            {"hidden_size", kHidden},
            {"num_hidden_layers", 2},
            {"vocab_size", kVocabulary},
            {"num_heads", options_.heads},
            {"num_v_heads", options_.value_heads},
            {"head_dim", kKeyDim},
            {"expand_v", options_.expand_v},
            {"intermediate_size", kIntermediate},
            {"norm_eps", kEps},
            {"conv_size", kConvWidth},
            {"conv_bias", options_.conv_bias},
            {"use_short_conv", options_.conv},
            {"use_gate", options_.gate},
            {"output_gate_activation", options_.activation},
            {"allow_neg_eigval", options_.negative_eigenvalues},
            {"tie_word_embeddings", options_.tied}};
  }
  const TensorFile& files() const { return files_; }

  // log p(tokens[t] | tokens before it) for t >= 1.
  std::vector<double> Scores(const std::vector<uint32_t>& tokens) {
    std::vector<double> scores;
    for (size_t t = 0; t + 1 < tokens.size(); ++t) {
      const auto& table = T("model.embeddings.weight");
      Vector x(table.begin() + tokens[t] * kHidden,
               table.begin() + (tokens[t] + 1) * kHidden);
      for (int layer = 0; layer < 2; ++layer) {
        const std::string prefix = "model.layers." + std::to_string(layer);
        Add(x, Mix(layer, Norm(x, prefix + ".attn_norm.weight")));
        Add(x, FeedForward(prefix, Norm(x, prefix + ".mlp_norm.weight")));
      }
      const Vector logits =
          Multiply(options_.tied ? "model.embeddings.weight" : "lm_head.weight",
                   Norm(x, "model.norm.weight"));
      const double high = *std::max_element(logits.begin(), logits.end());
      double sum = 0;
      for (const double logit : logits) sum += std::exp(logit - high);
      scores.push_back(logits[tokens[t + 1]] - high - std::log(sum));
    }
    return scores;
  }

 private:
  template <typename AddTensor>
  void AddLayer(int layer, const AddTensor& add) {
    const std::string prefix = "model.layers." + std::to_string(layer) + ".";
    const std::string attn = prefix + "attn.";
    add(prefix + "attn_norm.weight", {kHidden}, 0.1f, 1);
    add(prefix + "mlp_norm.weight", {kHidden}, 0.1f, 1);
    for (const auto& [part, rows] : std::vector<std::pair<std::string, int>>{
             {"q", keys_}, {"k", keys_}, {"v", values_}}) {
      add(attn + part + "_proj.weight", {rows, kHidden}, 0.3f);
      if (!options_.conv) continue;
      add(attn + part + "_conv1d.weight", {rows, 1, kConvWidth}, 0.5f);
      if (options_.conv_bias) add(attn + part + "_conv1d.bias", {rows}, 0.3f);
    }
    add(attn + "a_proj.weight", {options_.value_heads, kHidden}, 0.3f);
    add(attn + "b_proj.weight", {options_.value_heads, kHidden}, 0.3f);
    add(attn + "A_log", {options_.value_heads}, 0.5f);
    add(attn + "dt_bias", {options_.value_heads}, 1, -2);
    if (options_.gate) {
      add(attn + "g_proj.weight", {values_, kHidden}, 0.3f);
    }
    add(attn + "o_norm.weight", {value_dim_}, 0.1f, 1);
    add(attn + "o_proj.weight", {kHidden, values_}, 0.2f);
    add(prefix + "mlp.gate_proj.weight", {kIntermediate, kHidden}, 0.3f);
    add(prefix + "mlp.up_proj.weight", {kIntermediate, kHidden}, 0.3f);
    add(prefix + "mlp.down_proj.weight", {kHidden, kIntermediate}, 0.2f);
  }

  const std::vector<float>& T(const std::string& name) const {
    return tensors_.at(name);
  }

  static void Add(Vector& x, const Vector& y) {
    for (size_t i = 0; i < x.size(); ++i) x[i] += y[i];
  }

  Vector Multiply(const std::string& name, const Vector& x) const {
    const auto& weight = T(name);
    Vector y(weight.size() / x.size(), 0.0);
    for (size_t r = 0; r < y.size(); ++r) {
      for (size_t c = 0; c < x.size(); ++c) {
        y[r] += weight[r * x.size() + c] * x[c];
      }
    }
    return y;
  }

  Vector Norm(const Vector& x, const std::string& name) const {
    double squares = 0;
    for (const double value : x) squares += value * value;
    const double scale =
        1 / std::sqrt(squares / static_cast<double>(x.size()) + kEps);
    Vector y = x;
    for (size_t i = 0; i < x.size(); ++i) y[i] *= scale * T(name)[i];
    return y;
  }

  Vector FeedForward(const std::string& prefix, const Vector& x) const {
    Vector gate = Multiply(prefix + ".mlp.gate_proj.weight", x);
    const Vector up = Multiply(prefix + ".mlp.up_proj.weight", x);
    for (size_t i = 0; i < gate.size(); ++i) gate[i] = Silu(gate[i]) * up[i];
    return Multiply(prefix + ".mlp.down_proj.weight", gate);
  }

  // One of q, k, v: projected, convolved with what came before, activated.
  Vector Part(const std::string& attn,
              const std::string& part,
              const Vector& x) {
    Vector now = Multiply(attn + part + "_proj.weight", x);
    if (options_.conv) {
      std::vector<Vector>& past = past_[attn + part];
      past.resize(kConvWidth, Vector(now.size(), 0.0));
      past.erase(past.begin());
      past.push_back(now);
      const auto& taps = T(attn + part + "_conv1d.weight");
      for (size_t c = 0; c < now.size(); ++c) {
        now[c] = options_.conv_bias ? T(attn + part + "_conv1d.bias")[c] : 0;
        for (size_t w = 0; w < kConvWidth; ++w) {
          now[c] += taps[c * kConvWidth + w] * past[w][c];
        }
      }
    }
    for (double& value : now) value = Silu(value);
    return now;
  }

  static Vector UnitHead(const Vector& x, int head) {
    Vector y(x.begin() + head * kKeyDim, x.begin() + (head + 1) * kKeyDim);
    double squares = 0;
    for (const double value : y) squares += value * value;
    for (double& value : y) value /= std::sqrt(squares + 1e-6);
    return y;
  }

  Vector Mix(int layer, const Vector& x) {
    const std::string attn = "model.layers." + std::to_string(layer) + ".attn.";
    const Vector q = Part(attn, "q", x);
    const Vector k = Part(attn, "k", x);
    const Vector v = Part(attn, "v", x);
    const Vector a = Multiply(attn + "a_proj.weight", x);
    const Vector b = Multiply(attn + "b_proj.weight", x);
    Vector out;
    for (int h = 0; h < options_.value_heads; ++h) {
      const int key_head = h / (options_.value_heads / options_.heads);
      const double decay =
          std::exp(-std::exp(T(attn + "A_log")[h]) *
                   std::log1p(std::exp(a[h] + T(attn + "dt_bias")[h])));
      const double beta =
          Sigmoid(b[h]) * (options_.negative_eigenvalues ? 2 : 1);
      const Vector o = Head(
          attn + std::to_string(h),
          UnitHead(q, key_head),
          UnitHead(k, key_head),
          Vector(v.begin() + h * value_dim_, v.begin() + (h + 1) * value_dim_),
          decay,
          beta);
      const Vector normed = Norm(o, attn + "o_norm.weight");
      out.insert(out.end(), normed.begin(), normed.end());
    }
    if (options_.gate) {
      const Vector g = Multiply(attn + "g_proj.weight", x);
      const bool sigmoid = std::string(options_.activation) == "sigmoid";
      for (size_t i = 0; i < out.size(); ++i) {
        out[i] *= sigmoid ? Sigmoid(g[i]) : Silu(g[i]);
      }
    }
    return Multiply(attn + "o_proj.weight", out);
  }

  // S <- d S;  S <- S + k (beta (v - S^T k))^T;  o = S^T q K^-1/2
  Vector Head(const std::string& name,
              const Vector& q,
              const Vector& k,
              const Vector& v,
              double decay,
              double beta) {
    Vector& s = states_[name];
    s.resize(size_t{kKeyDim} * static_cast<size_t>(value_dim_), 0.0);
    Vector o(v.size(), 0.0);
    for (size_t j = 0; j < v.size(); ++j) {
      double read = 0;
      for (size_t i = 0; i < k.size(); ++i) {
        s[i * v.size() + j] *= decay;
        read += s[i * v.size() + j] * k[i];
      }
      for (size_t i = 0; i < k.size(); ++i) {
        s[i * v.size() + j] += k[i] * beta * (v[j] - read);
        o[j] += s[i * v.size() + j] * q[i] / std::sqrt(double{kKeyDim});
      }
    }
    return o;
  }

  const Options options_;
  const int keys_;
  const int value_dim_;
  const int values_;
  TensorFile files_;
  std::map<std::string, std::vector<float>> tensors_;
  std::map<std::string, Vector> states_;
  std::map<std::string, std::vector<Vector>> past_;
};

class GatedDeltaNetTest : public testing::TestWithParam<Options> {};

TEST_P(GatedDeltaNetTest, ScoresAreThoseOfTheFormulas) {
  Reference reference(GetParam());
  const TempFolder folder;
  WriteFileBytes(folder.File("config.json"), reference.Config().dump());
  reference.files().Write(folder.File("model.safetensors"));
  auto engine = TorchEngine::Create({.model_dir = folder.path(), .slots = 2});
  ASSERT_TRUE(engine.ok()) << engine.status();
  const auto tokens = RandomTokens(kVocabulary, 150, kSeed);

  const std::vector<double> expected = reference.Scores(tokens);

  for (const size_t piece : {150, 5}) {
    const int32_t slot = *(*engine)->AcquireSlot();
    const auto scores = FeedInPieces(**engine, slot, tokens, piece);
    for (size_t i = 1; i < scores.size(); ++i) {
      ASSERT_NEAR(scores[i], expected[i - 1], 1e-4) << "token " << i;
    }
  }
}

INSTANTIATE_TEST_SUITE_P(
    Options,
    GatedDeltaNetTest,
    testing::Values(Options{.name = "as_by_default"},
                    Options{.name = "grouped_values", .value_heads = 6},
                    Options{.name = "narrow_values", .expand_v = 0.75},
                    Options{.name = "no_gate", .gate = false},
                    Options{.name = "sigmoid_gate", .activation = "sigmoid"},
                    Options{.name = "no_convolution", .conv = false},
                    Options{.name = "convolution_with_bias", .conv_bias = true},
                    Options{.name = "negative_eigenvalues",
                            .negative_eigenvalues = true},
                    Options{.name = "tied_head", .tied = true},
                    Options{.name = "most_at_once",
                            .heads = 1,
                            .value_heads = 3,
                            .expand_v = 1.5,
                            .activation = "sigmoid",
                            .conv_bias = true,
                            .negative_eigenvalues = true,
                            .tied = true}),
    [](const testing::TestParamInfo<Options>& info) {
      return std::string(info.param.name);
    });

}  // namespace
}  // namespace weir::engine
